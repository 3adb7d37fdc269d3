"""Step 4: write the rows that are not duplicates, for spark-submit; the same as ``spark-semdedup remove``.

    spark-submit jobs/remove.py \\
        --input s3a://bucket/embeddings \\
        --duplicates s3a://bucket/duplicates \\
        --output s3a://bucket/kept
"""

from spark_semdedup.cli.main import job

job("remove")
