"""Step 3: find the duplicates among the similarities, for spark-submit; the same as ``spark-semdedup identify``.

    spark-submit jobs/identify.py \\
        --input s3a://bucket/similarities \\
        --output s3a://bucket/duplicates \\
        --eps 0.05
"""

from spark_semdedup.cli.main import job

job("identify")
