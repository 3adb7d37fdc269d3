#!/bin/sh
# Checks that this machine has what Spark needs, and prints the Python to use. Otherwise: one line that says what to
# install, and status 1.
#
#   PYTHON     the Python to use (default: the newest suitable one on PATH)
#   JAVA_HOME  the Java to use (default: the java on PATH); Spark looks in the same order
#   PYSPARK    the version of Spark that will be installed (default: 4.0)
#
# Shell builtins only, so that it works, and can be tested, with nothing else on PATH.
set -eu

refuse() {
  echo "spark-semdedup: $*" >&2
  exit 1
}

# --- Java: Spark 4 needs 17. Hadoop's login code stops working at 23 (HADOOP-19212), but for that of Spark 4.2 and newer,
# which support 25 (SPARK-56815) --------------------------------------------------------------------------------------

case ${PYSPARK:-4.0} in
  3.* | 4.0* | 4.1*) newest_java=22 ;;
  *) newest_java=25 ;;
esac

java_install='Debian/Ubuntu: sudo apt-get install openjdk-17-jre-headless (or openjdk-21-jre-headless);'
java_install="$java_install RHEL: sudo dnf install java-17-openjdk-headless (or java-21-openjdk-headless);"
java_install="$java_install macOS: brew install openjdk@17 && export JAVA_HOME=\$(brew --prefix openjdk@17)"

check_java() {
  if [ -n "${JAVA_HOME:-}" ]; then
    java=$JAVA_HOME/bin/java where="JAVA_HOME=$JAVA_HOME"
  else
    java=java where="the java on PATH"
  fi
  # macOS has a java that only says that there is none, so it is run, not looked for.
  found=$("$java" -version 2>&1) || refuse "Java 17 to $newest_java is needed, $where does not run. $java_install"
  version=${found#*version \"}
  version=${version%%\"*}
  major=${version#1.} # Java 8 calls itself 1.8
  major=${major%%[!0-9]*}
  if [ "${major:-0}" -lt 17 ] || [ "$major" -gt "$newest_java" ]; then
    refuse "Java 17 to $newest_java is needed, $where is ${version:-of an unknown version}. $java_install"
  fi
}

# --- Python ---------------------------------------------------------------------------------------------------------

elsewhere='RHEL: sudo dnf install python3.11; macOS: brew install python@3.11'
python_install="Debian/Ubuntu: sudo apt-get install python3 python3-venv; $elsewhere"

oldest=10 newest=13
case ${PYSPARK:-4.0} in
  3.*) newest=11 ;; # Spark 3.5 still uses distutils, which Python 3.12 no longer has
  4.3*) oldest=11 ;;
esac

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

has_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

choose_python() {
  found='there is no python3 on PATH' without_venv=
  if [ -n "${PYTHON:-}" ]; then
    found="PYTHON=$PYTHON does not run"
    set -- "$PYTHON"
  else
    set -- python3.13 python3.12 python3.11 python3.10 python3 python
  fi
  for python; do
    version=$(version_of "$python") || continue
    found="$python is $version"
    case $version in 3.*) minor=${version#3.} ;; *) continue ;; esac
    if [ "$minor" -lt "$oldest" ] || [ "$minor" -gt "$newest" ]; then continue; fi
    if has_venv "$python"; then
      echo "$python"
      return
    fi
    without_venv=$python without_venv_version=$version
  done
  if [ -n "$without_venv" ]; then
    refuse "Python's venv module is needed, $without_venv has none." \
      "Debian/Ubuntu: sudo apt-get install python$without_venv_version-venv; $elsewhere"
  fi
  refuse "Python 3.$oldest to 3.$newest is needed, $found. $python_install"
}

check_java
choose_python
