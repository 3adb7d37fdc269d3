#!/bin/sh
# Tells Spark which GPUs this machine has, as a ResourceInformation: {"name": "gpu", "addresses": ["0", "1"]}
set -eu
found=$(nvidia-smi --query-gpu=index --format=csv,noheader)
addresses=
for index in $found; do
  addresses="$addresses${addresses:+, }\"$index\""
done
echo "{\"name\": \"gpu\", \"addresses\": [$addresses]}"
