#!/bin/bash
# Amazon EMR bootstrap action, run on every node before Hadoop starts. Argument: where the wheel is, s3://…/….whl
set -euo pipefail
wheel=${1:?the wheel of spark-semdedup, as s3://bucket/name.whl}

# YARN gives containers their GPUs by cgroups of version 1, which Amazon Linux 2023 does not mount.
# github.com/NVIDIA/spark-rapids-ml, notebooks/aws-emr/init-bootstrap-action.sh
sudo mkdir -p /spark-rapids-cgroup/devices
sudo mount -t cgroup -o devices cgroupv1-devices /spark-rapids-cgroup/devices
sudo chmod a+rwx -R /spark-rapids-cgroup

# EMR 7's own Python is 3.9; RAPIDS needs 3.11. CuPy and cuML on nodes without a GPU (the primary one) do no harm.
sudo dnf install -y python3.11
sudo python3.11 -m venv /opt/semdedup
aws s3 cp "$wheel" /tmp/
# pyspark of EMR 7's Spark line. spark-submit uses EMR's own; without this pip would install the newest.
sudo /opt/semdedup/bin/pip install "/tmp/$(basename "$wheel")[gpu-cu12]" 'pyspark==3.5.*'
