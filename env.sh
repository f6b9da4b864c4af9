# The environment of this project's Airflow in a terminal: `source env.sh` from any folder (bash), then `airflow …` just
# works. It selects the terminal's home, `.airflow/terminal`, whose database no scheduler reads; `make airflow` has another.
# What is set here is for a laptop; a deployment brings its own.
# shellcheck shell=bash
_project="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

# Settings of another Airflow must not reach this one, nor this project another Airflow's home: only connections,
# variables, and where `make airflow` listens are taken over. MLAPP_AIRFLOW_HOME moves the homes of this project.
for _name in "${!AIRFLOW_@}"; do
  case "$_name" in
    AIRFLOW_CONN_* | AIRFLOW_VAR_* | AIRFLOW__API__HOST | AIRFLOW__API__PORT) ;;
    *) unset "$_name" ;;
  esac
done
export AIRFLOW_HOME="${MLAPP_AIRFLOW_HOME:-$_project/.airflow}/terminal"
case "$AIRFLOW_HOME" in /*) ;; *) AIRFLOW_HOME="$PWD/$AIRFLOW_HOME" ;; esac
# The mark of a home that this project made: no other database is ever migrated or written.
[ -e "$AIRFLOW_HOME" ] || { mkdir -p "$AIRFLOW_HOME" && : >"$AIRFLOW_HOME/.mlapp"; }
export AIRFLOW_CONFIG="$AIRFLOW_HOME/airflow.cfg"
export AIRFLOW__DATABASE__SQL_ALCHEMY_CONN="sqlite:///$AIRFLOW_HOME/airflow.db"
export AIRFLOW__CORE__DAGS_FOLDER="$_project/dags"
export AIRFLOW__CORE__PLUGINS_FOLDER="$_project/plugins"
export AIRFLOW__CORE__EXECUTOR=LocalExecutor
export AIRFLOW__CORE__LOAD_EXAMPLES=False
export AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION=False
export AIRFLOW__CORE__DAG_RUN_CONF_OVERRIDES_PARAMS=True
# Each stage uses every core there is: many at once would gain nothing and take the memory of all.
export AIRFLOW__CORE__PARALLELISM=2
export AIRFLOW__LOGGING__COLORED_CONSOLE_LOG=False
# Google Cloud, where a run uses it: with the credentials of `gcloud auth application-default login`.
export AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT="${AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT:-google-cloud-platform://}"
# The routine of Airflow itself, between which the lines of the stages would be lost.
export AIRFLOW__LOGGING__NAMESPACE_LEVELS="alembic=WARNING airflow.api_fastapi.execution_api=WARNING \
  airflow.dag_processing=WARNING airflow.models=WARNING airflow.serialization=WARNING py.warnings=ERROR"
# Caches of libraries, which would otherwise go into the home folder.
export MPLCONFIGDIR="${MPLCONFIGDIR:-$_project/.cache/matplotlib}" KERAS_HOME="${KERAS_HOME:-$_project/.cache/keras}"
# What listens on this machine is never reached through a proxy.
for _name in no_proxy NO_PROXY; do
  case ",${!_name:-}," in *",127.0.0.1,"*) ;; *) export "$_name=${!_name:+${!_name},}localhost,127.0.0.1,::1" ;; esac
done

# Packages and switches for another Python do not suit this one, whose packages are pinned.
unset PYTHONHOME PYTHONINSPECT PYTHONIOENCODING PYTHONOPTIMIZE PYTHONSAFEPATH PYTHONWARNINGS
export PYTHONPATH="$_project" PYTHONUTF8=1
case ":$PATH:" in *":$_project/.venv/bin:"*) ;; *) export PATH="$_project/.venv/bin:$PATH" ;; esac
case ":$PATH:" in *":$_project/bin:"*) ;; *) export PATH="$_project/bin:$PATH" ;; esac
unset _project _name
