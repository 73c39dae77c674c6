# The public NATS image, whose server would run as root and whose data folder would belong to root.
ARG NATS=nats:2.15.2-alpine
FROM ${NATS}
RUN adduser -S -D -H -u 10002 nats && install -d -o nats /data
USER nats
