# NATS from a server that is on this machine.
ARG BASE
FROM ${BASE}
RUN useradd --uid 10002 --no-create-home nats && install -d -o nats -g nats /data
COPY bin/nats-server http-ok /usr/local/bin/
USER nats
ENTRYPOINT ["nats-server"]
