"""How much a run found, for spark-submit; the same as ``spark-semdedup evaluate``.

    spark-submit jobs/evaluate.py \\
        --input s3a://bucket/embeddings \\
        --result s3a://bucket/result \\
        --sample-rows 5000
"""

from spark_semdedup.cli.main import job

job("evaluate")
