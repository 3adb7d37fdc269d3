"""Any command of ``spark-semdedup``, for spark-submit; without one, ``run``.

    spark-submit jobs/semdedup.py \\
        --input s3a://bucket/embeddings \\
        --output s3a://bucket/deduplicated \\
        --eps 0.05
    spark-submit jobs/semdedup.py evaluate --input s3a://bucket/embeddings --result s3a://bucket/deduplicated
"""

from spark_semdedup.cli.main import job

job()
