#!/bin/bash
# Databricks init script, run on every node: the RAPIDS Accelerator's jar, and what the package needs on GPUs.
# For Databricks Runtime 17.3 LTS ML GPU (Spark 4.0, Scala 2.13), the one of 4.0 that the plugin supports.
# nvidia.github.io/spark-rapids/docs/download.html; docs.databricks.com/en/init-scripts
set -euo pipefail
version=26.08.1
folder=/Workspace/Shared/semdedup

# The jar: the file next to this script, if there is one (a workspace without network access), or from Maven Central.
jar=rapids-4-spark_2.13-$version.jar
if [ -e "$folder/$jar" ]; then
  cp "$folder/$jar" /databricks/jars/
else
  curl --fail --location --retry 3 --output "/databricks/jars/$jar" \
    "https://repo1.maven.org/maven2/com/nvidia/rapids-4-spark_2.13/$version/$jar"
fi

# The package without dependencies, because pip would add a second pyspark to the runtime's own. Then the dependencies that
# the runtime lacks: faiss, and the extra gpu-cu12 (the runtime has CUDA 12).
/databricks/python/bin/pip install --no-cache-dir --no-deps "$folder"/spark_semdedup-*.whl
/databricks/python/bin/pip install --no-cache-dir 'faiss-cpu>=1.14.2' \
  'spark-rapids-ml==26.6.*' 'cuml-cu12==26.6.*' 'raft-dask-cu12==26.6.*' 'cupy-cuda12x==14.2.*'
