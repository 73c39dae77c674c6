# As ../Dockerfile, with binaries that were built on this machine.
ARG BASE
FROM ${BASE}
RUN apt-get update && apt-get install -y --no-install-recommends libssl3 ca-certificates \
    && rm -rf /var/lib/apt/lists/*
# A new volume takes the owner of the folder that it is mounted on.
RUN useradd --uid 10001 --no-create-home clbridge \
    && install -d -o clbridge -g clbridge /var/lib/mdt-sim /run/mdt-sim /var/lib/clbridge
COPY bin/clbridge bin/mdt-sim http-ok /usr/local/bin/
ENV MDT_SIM_CONTROL=unix:/run/mdt-sim/control
USER clbridge
CMD ["clbridge", "run"]
