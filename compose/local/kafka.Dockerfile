# Kafka from its jars; takes the same variables as the public image apache/kafka.
ARG BASE
FROM ${BASE}
RUN apt-get update && apt-get install -y --no-install-recommends openjdk-17-jre-headless \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 1000 --no-create-home kafka && install -d -o kafka -g kafka /var/lib/kafka/data
COPY libs/ /opt/kafka/libs/
COPY kafka-run /usr/local/bin/
USER kafka
CMD ["kafka-run"]
