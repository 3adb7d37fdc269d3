"""What a cluster has, what a run there would use, and what to change, for spark-submit; the same as ``spark-semdedup
doctor``.

    spark-submit --properties-file conf/gpu-standalone.properties jobs/doctor.py --backend gpu
"""

import sys

from spark_semdedup.cli.main import main

if __name__ == "__main__":
    status = main(["doctor", *sys.argv[1:]])
    if status:  # a notebook platform takes any SystemExit for a failure
        sys.exit(status)
