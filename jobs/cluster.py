"""Step 1: fit centroids and write the rows by cluster, for spark-submit; the same as ``spark-semdedup cluster``.

    spark-submit jobs/cluster.py \\
        --input s3a://bucket/embeddings \\
        --output s3a://bucket/clusters \\
        --k 1000
"""

import sys

from spark_semdedup.cli.main import main

if __name__ == "__main__":
    status = main(["cluster", *sys.argv[1:]])
    if status:  # a notebook platform takes any SystemExit for a failure
        sys.exit(status)
