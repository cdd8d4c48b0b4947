#!/usr/bin/env bash
# Makes the topics of examples/rules/kafka/devices.sql by Kafka's own tool. Run it before the rules: the sink creates
# what is missing by the brokers' defaults, which compact nothing and forget records after a week. What is there is left
# as it is.
#
#   migrations/kafka/topics.sh HOST:9092 [ARGUMENT OF kafka-topics.sh ...]
#
# E.g. with `--partitions 12 --replication-factor 3 --command-config admin.properties`. HISTORY_DAYS and MESSAGES_DAYS
# say how long history and alarms, and messages, are kept.
set -euo pipefail
brokers=${1:?the address of a broker, HOST:PORT}
shift
day_ms=86400000

# topic NAME CONFIG...
topic() {
  local name=$1 configs=() config
  shift
  for config in "$@"; do configs+=(--config "$config"); done
  kafka-topics.sh --bootstrap-server "$brokers" --create --if-not-exists --topic "$name" "${configs[@]}" "${arguments[@]}"
}

arguments=("$@")
# The key is the client's id: its last record stays for ever.
topic device_status cleanup.policy=compact
# Each record is news of its own, and a client has several alarms under one key: kept by time.
topic device_history cleanup.policy=delete "retention.ms=$((${HISTORY_DAYS:-400} * day_ms))"
topic device_alarms cleanup.policy=delete "retention.ms=$((${HISTORY_DAYS:-400} * day_ms))"
topic device_messages cleanup.policy=delete "retention.ms=$((${MESSAGES_DAYS:-30} * day_ms))"
