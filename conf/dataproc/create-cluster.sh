#!/bin/bash
# Creates a Dataproc cluster of two workers with a T4 GPU each: create-cluster.sh NAME REGION BUCKET
# In BUCKET lie spark-rapids.sh (Google's initialization action for driver and plugin), initialize.sh and the wheel.
# cloud.google.com/dataproc/docs/concepts/configuring-clusters/init-actions; NVIDIA's README in
# github.com/NVIDIA/spark-rapids-ml, notebooks/dataproc
set -euo pipefail
name=${1:?name of the cluster} region=${2:?region, europe-west4 say} bucket=${3:?bucket, without gs://}
here=$(cd "$(dirname "$0")" && pwd)

# One line for each setting of spark-defaults, "spark:" before each, "#" between them for some hold commas.
properties=$(sed -e '/^\(#.*\)\?$/d' -e 's/^\([^ ]*\)  */spark:\1=/' "$here/spark.properties" | paste -sd '#')

# Image 2.2: Spark 3.5, Python 3.11. Secure boot would refuse the driver. Drivers and packages take about 20 minutes.
exec gcloud dataproc clusters create "$name" \
  --region "$region" \
  --image-version 2.2-ubuntu22 \
  --master-machine-type n1-standard-8 \
  --num-workers 2 \
  --worker-machine-type n1-highmem-8 \
  --worker-accelerator type=nvidia-tesla-t4,count=1 \
  --num-worker-local-ssds 1 \
  --initialization-actions "gs://$bucket/spark-rapids.sh,gs://$bucket/initialize.sh" \
  --initialization-action-timeout 30m \
  --metadata "gpu-driver-provider=NVIDIA,rapids-runtime=SPARK,semdedup-wheels=gs://$bucket/wheels" \
  --bucket "$bucket" \
  --no-shielded-secure-boot \
  --properties "^#^$properties"
