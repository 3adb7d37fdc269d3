"""Step 2: compare the rows of each cluster, for spark-submit; the same as ``spark-semdedup pairwise``.

    spark-submit jobs/pairwise.py \\
        --input s3a://bucket/clusters \\
        --output s3a://bucket/similarities
"""

from spark_semdedup.cli.main import job

job("pairwise")
