#!/usr/bin/env bash
# Kafka 4.4.0: the settings tool has another class name than in 4.1 to 4.3, without a forwarder.
#
# Scripts that start Kafka's tools by class (java -cp … CLASS), as containers without bin/ do, meet it. In 4.3.1
# `kafka.admin.ConfigCommand` is in the jar `kafka_2.13`, and no `org.apache.kafka.tools.ConfigCommand` anywhere; in
# 4.4.0 it is the other way round. `kafka.tools.StorageTool` stayed where it was.
#
# Seen with Maven Central's org.apache.kafka:kafka_2.13 and org.apache.kafka:kafka-tools, 4.3.1 and 4.4.0:
#   4.3.1 kafka_2.13:kafka/admin/ConfigCommand.class
#   4.4.0 kafka-tools:org/apache/kafka/tools/ConfigCommand.class
#   4.3.1 kafka_2.13:kafka/tools/StorageTool.class
#   4.4.0 kafka_2.13:kafka/tools/StorageTool.class
# Needs: mvn, unzip. Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 4.3.1 4.4.0; do
    for artifact in kafka_2.13 kafka-tools; do
        mvn -q dependency:copy -Dartifact="org.apache.kafka:$artifact:$version" -DoutputDirectory="$folder" \
            -Dmdep.stripVersion=false >/dev/null
    done
done
seen=$(for class in ConfigCommand StorageTool; do
    for version in 4.3.1 4.4.0; do
        for artifact in kafka_2.13 kafka-tools; do
            { unzip -Z1 "$folder/$artifact-$version.jar" | grep "/$class.class\$" || true; } |
                sed "s|^|$version $artifact:|"
        done
    done
done)
expected='4.3.1 kafka_2.13:kafka/admin/ConfigCommand.class
4.4.0 kafka-tools:org/apache/kafka/tools/ConfigCommand.class
4.3.1 kafka_2.13:kafka/tools/StorageTool.class
4.4.0 kafka_2.13:kafka/tools/StorageTool.class'
printf '%s\n' "$seen"
[ "$seen" = "$expected" ] || { echo "this has changed" >&2; exit 1; }
