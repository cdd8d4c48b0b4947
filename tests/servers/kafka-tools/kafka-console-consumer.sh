#!/usr/bin/env bash
# Kafka's tool of this name, from the jars that ../kafka installs.
exec "$(dirname "${BASH_SOURCE[0]}")/../kafka" tool "$(basename "$0")" "$@"
