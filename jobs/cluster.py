"""Step 1: fit centroids and write the rows by cluster, for spark-submit; the same as ``spark-semdedup cluster``.

    spark-submit jobs/cluster.py \\
        --input s3a://bucket/embeddings \\
        --output s3a://bucket/clusters \\
        --k 1000
"""

from spark_semdedup.cli.main import job

job("cluster")
