"""What a cluster has, what a run there would use, and what to change, for spark-submit; the same as ``spark-semdedup
doctor``.

    spark-submit --properties-file conf/gpu-standalone.properties jobs/doctor.py --backend gpu
"""

from spark_semdedup.cli.main import job

job("doctor")
