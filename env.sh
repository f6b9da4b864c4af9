# The environment of this project's Airflow: `source env.sh` from any folder (bash), then `airflow …` just works.
# What is set here is for a laptop; a deployment brings its own.
# shellcheck shell=bash
_project="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

export AIRFLOW_HOME="${AIRFLOW_HOME:-$_project/.airflow}"
export AIRFLOW__CORE__DAGS_FOLDER="$_project/dags"
export AIRFLOW__CORE__PLUGINS_FOLDER="$_project/plugins"
export AIRFLOW__CORE__LOAD_EXAMPLES=False
export AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION=False
# Each stage uses every core there is: many at once would gain nothing and take the memory of all.
export AIRFLOW__CORE__PARALLELISM="${AIRFLOW__CORE__PARALLELISM:-2}"
# A machine of one's own: no passwords, and the server listens on loopback only.
export AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS=True
export AIRFLOW__API__HOST="${AIRFLOW__API__HOST:-127.0.0.1}"
export AIRFLOW__API__PORT="${AIRFLOW__API__PORT:-8080}"
export AIRFLOW__API__WORKERS=1
export AIRFLOW__CORE__EXECUTION_API_SERVER_URL="http://127.0.0.1:$AIRFLOW__API__PORT/execution/"
export AIRFLOW__DATABASE__SQL_ALCHEMY_CONN="sqlite:///$AIRFLOW_HOME/airflow.db"
export AIRFLOW__LOGGING__COLORED_CONSOLE_LOG=False
# Google Cloud, where a run uses it: as whoever is logged in with `gcloud auth application-default login`.
export AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT="${AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT:-google-cloud-platform://}"
# The routine of Airflow itself, between which the lines of the stages would be lost.
export AIRFLOW__LOGGING__NAMESPACE_LEVELS="alembic=WARNING airflow.api_fastapi.execution_api=WARNING \
  airflow.dag_processing=WARNING airflow.models=WARNING airflow.serialization=WARNING py.warnings=ERROR"

case ":${PYTHONPATH:-}:" in *":$_project:"*) ;; *) export PYTHONPATH="$_project${PYTHONPATH:+:$PYTHONPATH}" ;; esac
case ":$PATH:" in *":$_project/.venv/bin:"*) ;; *) export PATH="$_project/.venv/bin:$PATH" ;; esac
unset _project
