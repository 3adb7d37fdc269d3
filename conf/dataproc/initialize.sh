#!/bin/bash
# Dataproc initialization action, run on every node: installs the package from the folder that the cluster's metadata
# "semdedup-wheels" names (gs://…) into /opt/semdedup.
set -euo pipefail
wheels=$(/usr/share/google/get_metadata_value attributes/semdedup-wheels)
mkdir -p /tmp/wheels
gcloud storage cp "$wheels/spark_semdedup-*.whl" /tmp/wheels/
/opt/conda/default/bin/python -m venv /opt/semdedup
# pyspark of the image's Spark line. spark-submit uses Dataproc's own; without this pip would install the newest.
/opt/semdedup/bin/pip install "$(ls /tmp/wheels/spark_semdedup-*.whl)[gpu-cu12]" 'pyspark==3.5.*'
