#!/bin/bash
# Prepares a Google Cloud project for mlapp: APIs, buckets, image repository, service accounts with what each may do,
# and the Composer environment. Says each command before it runs it. Safe to repeat: what exists is left as it is.
set -euo pipefail

IMAGE_VERSION=composer-3-airflow-3.3.1
REPOSITORY=mlapp
SECRET=mlapp-wandb
# Of a run's folder, the files that say what the run is to do: only its first task writes them, on Airflow's worker.
NOT_SETTINGS='^;^title=not-the-settings;expression=!resource.name.endsWith("/config.json") && !resource.name.endsWith("/origins.json")'
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
APIS=(aiplatform artifactregistry cloudbuild cloudresourcemanager composer iam logging secretmanager storage)

usage() {
  cat <<END
usage: deploy/setup.sh [OPTION]… PROJECT REGION

  --dry-run           only say what would be done; asks Google Cloud nothing
  --wandb             also make the secret for the key of Weights & Biases; its value you give yourself, afterwards
  --environment NAME  the Composer environment (default: mlapp); none: do not make one
  --deployment NAME   what the environment's runs start from: a file of deploy/presets (default: vertex_cpu)
  --airflow-moves     let Airflow's own account write the registry, so that the DAG model_registry can roll back
  --kms-key KEY       encrypt buckets, images, jobs and environment with a key of yours, in REGION:
                      projects/P/locations/REGION/keyRings/R/cryptoKeys/K
  --network NAME      a private environment without public addresses; it and the jobs work in this VPC network
  --subnetwork NAME   the environment's subnetwork (default: the network's name)
  --perimeter P/NAME  put the project into the service perimeter NAME of the access policy P (VPC Service Controls)
END
}

fail() {
  printf 'setup.sh: error: %s\n' "$*" >&2
  exit 2
}

# Say what a step is for.
step() { printf '\n# %s\n' "$*"; }

# Say a command, then run it.
run() {
  printf '%q ' "$@"
  printf '\n'
  ((dry_run)) || "$@" >/dev/null
}

# Like `run`, for what refers to an account: Google Cloud may not know everywhere yet one that was made a moment ago.
run_patiently() {
  local attempts=$((fresh ? 6 : 1))
  until run "$@"; do
    ((--attempts)) || return 1
    sleep 10
  done
}

# Whether something exists. A dry run takes it that nothing does.
exists() { ((!dry_run)) && "$@" >/dev/null 2>&1; }

make_bucket() { # NAME LIFECYCLE-FILE [FLAG]
  local uri="gs://$1"
  exists gcloud storage buckets describe "$uri" ||
    run gcloud storage buckets create "$uri" "--project=$project" "--location=$region" \
      --uniform-bucket-level-access --public-access-prevention "${encrypted[@]/#/--default-encryption-key=}"
  run gcloud storage buckets update "$uri" --uniform-bucket-level-access --public-access-prevention \
    "--lifecycle-file=$2" "${@:3}"
}

make_account() { # NAME DISPLAY-NAME
  exists gcloud iam service-accounts describe "$1@$domain" "--project=$project" && return
  run gcloud iam service-accounts create "$1" "--project=$project" "--display-name=$2"
  fresh=1
}

in_project() { # ACCOUNT ROLE
  run_patiently gcloud projects add-iam-policy-binding "$project" "--member=serviceAccount:$1@$domain" \
    "--role=$2" --condition=None
}

on_bucket() { # BUCKET ACCOUNT ROLE [CONDITION]
  run_patiently gcloud storage buckets add-iam-policy-binding "gs://$1" "--member=serviceAccount:$2@$domain" \
    "--role=$3" "--condition=${4:-None}"
}

on_images() { # ACCOUNT ROLE
  run_patiently gcloud artifacts repositories add-iam-policy-binding "$REPOSITORY" "--project=$project" \
    "--location=$region" "--member=serviceAccount:$1@$domain" "--role=$2"
}

on_account() { # ACCOUNT-THAT-IS-ACTED-AS ACCOUNT ROLE
  run_patiently gcloud iam service-accounts add-iam-policy-binding "$1@$domain" "--project=$project" \
    "--member=serviceAccount:$2@$domain" "--role=$3" --condition=None
}

on_secret() { # ACCOUNT ROLE
  run_patiently gcloud secrets add-iam-policy-binding "$SECRET" "--project=$project" \
    "--member=serviceAccount:$1@$domain" "--role=$2"
}

dry_run=0 fresh=0 wandb=0 airflow_moves=0 environment=mlapp deployment=vertex_cpu
kms_key='' network='' subnetwork='' perimeter='' encrypted=() number=''
while (($#)); do
  case "$1" in
    --dry-run) dry_run=1 ;;
    --wandb) wandb=1 ;;
    --airflow-moves) airflow_moves=1 ;;
    --environment | --deployment | --kms-key | --network | --subnetwork | --perimeter)
      (($# > 1)) || fail "$1 needs a name"
      option="${1#--}"
      printf -v "${option//-/_}" %s "$2"
      shift
      ;;
    -h | --help) usage && exit ;;
    -*) fail "unknown option $1: see deploy/setup.sh --help" ;;
    *) break ;;
  esac
  shift
done
(($# == 2)) || fail "give PROJECT and REGION, like deploy/setup.sh my-project europe-west4"
project="$1" region="$2"
[[ "$project" =~ ^[a-z][a-z0-9-]{4,28}[a-z0-9]$ ]] || fail "'$project' is no project id: gcloud projects list shows yours"
[[ "$region" =~ ^[a-z]+(-[a-z]+)+[0-9]+$ ]] || fail "'$region' is no region: write it like europe-west4"
[[ "$environment" =~ ^[a-z]([a-z0-9-]{0,62}[a-z0-9])?$ ]] || fail "'$environment' is no name for an environment: a-z, 0-9, -"
[[ "$deployment" =~ ^[a-z0-9_]+$ && -f "$HERE/presets/$deployment.yaml" ]] ||
  fail "no deployment '$deployment': make deploy/presets/$deployment.yaml"
[[ -z "$kms_key" || "$kms_key" =~ ^projects/[a-z0-9-]+/locations/$region/keyRings/[A-Za-z0-9_-]+/cryptoKeys/[A-Za-z0-9_-]+$ ]] ||
  fail "'$kms_key' is no key in $region: write it like projects/$project/locations/$region/keyRings/R/cryptoKeys/K"
[[ -z "$network" || "$network" =~ ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$ ]] || fail "'$network' is no name of a network"
[[ -z "$subnetwork" || "$subnetwork" =~ ^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$ ]] || fail "'$subnetwork' is no name of a subnetwork"
[[ -z "$subnetwork" || "$network" ]] || fail "--subnetwork needs --network"
[[ -z "$perimeter" || "$perimeter" =~ ^[0-9]+/[A-Za-z][A-Za-z0-9_]{0,49}$ ]] ||
  fail "'$perimeter' is no perimeter: write it like 123456789/NAME; gcloud access-context-manager policies list shows yours"
[[ "$kms_key" ]] && encrypted=("$kms_key")
command -v gcloud >/dev/null || fail "gcloud is missing: install the Google Cloud CLI, then run gcloud auth login"
export CLOUDSDK_CORE_DISABLE_PROMPTS=1
if ((!dry_run)); then
  gcloud auth print-access-token >/dev/null 2>&1 || fail "gcloud has no login: run gcloud auth login"
  gcloud projects describe "$project" >/dev/null 2>&1 ||
    fail "no project $project, or no access to it: gcloud projects list shows yours"
fi
domain="$project.iam.gserviceaccount.com"
raw="$project-mlapp-raw" processed="$project-mlapp-processed" models="$project-mlapp-models"
experiments="$project-mlapp-experiments" registry="$project-mlapp-registry"
if [[ "$kms_key$network$perimeter" ]]; then
  number=PROJECT-NUMBER
  ((dry_run)) || number="$(gcloud projects describe "$project" '--format=value(projectNumber)')"
fi

step "APIs"
run gcloud services enable "${APIS[@]/%/.googleapis.com}" "--project=$project"

if [[ "$kms_key" ]]; then
  step "The key encrypts and decrypts for the services that keep something here"
  run gcloud services enable cloudkms.googleapis.com "--project=$project"
  run gcloud storage service-agent "--project=$project" "--authorize-cmek=$kms_key"
  for service in artifactregistry composer aiplatform; do
    run gcloud beta services identity create "--service=$service.googleapis.com" "--project=$project"
  done
  for agent in gcp-sa-artifactregistry cloudcomposer-accounts gcp-sa-aiplatform gcp-sa-pubsub compute-system; do
    run_patiently gcloud kms keys add-iam-policy-binding "$kms_key" --role=roles/cloudkms.cryptoKeyEncrypterDecrypter \
      "--member=serviceAccount:service-$number@$agent.iam.gserviceaccount.com" --condition=None
  done
fi

step "Buckets: nobody outside, rights by role only. Uploads that broke off go after a week; what is only handed over goes from \
models and experiments after 30 days; old versions are kept for 30 days, those of the registry for a year, and what is deleted there for 90 days"
make_bucket "$raw" "$HERE/lifecycle.json"
make_bucket "$processed" "$HERE/lifecycle.json"
make_bucket "$models" "$HERE/lifecycle-models.json" --versioning
make_bucket "$experiments" "$HERE/lifecycle-experiments.json" --versioning
make_bucket "$registry" "$HERE/lifecycle-registry.json" --versioning --soft-delete-duration=90d

step "Training images: the newest ten are kept, others for 90 days"
exists gcloud artifacts repositories describe "$REPOSITORY" "--project=$project" "--location=$region" ||
  run gcloud artifacts repositories create "$REPOSITORY" "--project=$project" "--location=$region" \
    --repository-format=docker "--description=training images of mlapp" "${encrypted[@]/#/--kms-key=}"
run gcloud artifacts repositories set-cleanup-policies "$REPOSITORY" "--project=$project" "--location=$region" \
  "--policy=$HERE/image-cleanup.json" --no-dry-run

step "Service accounts: one for each that works"
make_account mlapp-composer "mlapp: Airflow's workers"
make_account mlapp-training "mlapp: training jobs"
make_account mlapp-promotion "mlapp: vetting and promotion"
make_account mlapp-build "mlapp: builds of the training image"

if ((wandb)); then
  step "The secret for the key of Weights & Biases, without a value yet"
  exists gcloud secrets describe "$SECRET" "--project=$project" ||
    run gcloud secrets create "$SECRET" "--project=$project" --replication-policy=automatic
fi

step "Composer's account runs the environment"
in_project mlapp-composer roles/composer.worker
step "… starts, finds and cancels training jobs"
in_project mlapp-composer roles/aiplatform.user
step "… has the training jobs run as their own account"
on_account mlapp-training mlapp-composer roles/iam.serviceAccountUser
step "… has vetting and promotion run as theirs"
on_account mlapp-promotion mlapp-composer roles/iam.serviceAccountUser
step "… starts and cancels image builds"
in_project mlapp-composer roles/cloudbuild.builds.editor
step "… has the builds run as their own account"
on_account mlapp-build mlapp-composer roles/iam.serviceAccountUser
step "… looks whether an image exists already"
on_images mlapp-composer roles/artifactregistry.reader
step "… writes a run's settings and summary, and reads the results of its stages"
for bucket in "$raw" "$processed" "$models" "$experiments"; do
  on_bucket "$bucket" mlapp-composer roles/storage.objectUser
done
if ((airflow_moves)); then
  step "… moves the champion where the DAG model_registry is asked to"
  on_bucket "$registry" mlapp-composer roles/storage.objectUser
else
  step "… reads the registry, to show promoted models to Vertex AI"
  on_bucket "$registry" mlapp-composer roles/storage.objectViewer
fi

step "The training account reads and writes data and models, not the registry"
for bucket in "$raw" "$processed" "$models"; do on_bucket "$bucket" mlapp-training roles/storage.objectUser; done
step "… writes the jobs' logs"
in_project mlapp-training roles/logging.logWriter

step "The promotion account reads the data, writes its results beside those of the training, and alone writes the registry"
for bucket in "$raw" "$processed"; do on_bucket "$bucket" mlapp-promotion roles/storage.objectViewer; done
for bucket in "$models" "$registry"; do on_bucket "$bucket" mlapp-promotion roles/storage.objectUser; done
step "… writes the jobs' logs"
in_project mlapp-promotion roles/logging.logWriter

step "Both read a run's settings, and write all else in its folder"
for account in mlapp-training mlapp-promotion; do
  on_bucket "$experiments" "$account" roles/storage.objectViewer
  on_bucket "$experiments" "$account" roles/storage.objectUser "$NOT_SETTINGS"
done

step "The build account reads what it builds from, under builds/ in the models bucket"
on_bucket "$models" mlapp-build roles/storage.objectViewer
step "… puts the image's bill of materials there"
on_bucket "$models" mlapp-build roles/storage.objectCreator
step "… pushes the image"
on_images mlapp-build roles/artifactregistry.writer
step "… writes the build's log"
in_project mlapp-build roles/logging.logWriter

if ((wandb)); then
  step "Stages read the key of Weights & Biases, on Vertex AI and on Airflow's workers"
  for account in mlapp-training mlapp-promotion mlapp-composer; do on_secret "$account" roles/secretmanager.secretAccessor; done
fi

if [[ "$perimeter" ]]; then
  step "The project is in the perimeter: what it keeps cannot be copied to other projects, whatever rights somebody has"
  services=(aiplatform artifactregistry cloudbuild composer secretmanager storage)
  restricted="$(IFS=, && printf %s "${services[*]/%/.googleapis.com}")"
  run gcloud access-context-manager perimeters update "${perimeter#*/}" "--policy=${perimeter%/*}" \
    "--add-resources=projects/$number" "--add-restricted-services=$restricted"
fi

[[ "$environment" == none ]] && exit

variables=(
  "MLAPP_DEPLOYMENT=$deployment"
  "MLAPP_CLOUD__PROJECT=$project"
  "MLAPP_CLOUD__REGION=$region"
  "MLAPP_STORAGE__RAW=gs://$raw"
  "MLAPP_STORAGE__PROCESSED=gs://$processed"
  "MLAPP_STORAGE__MODELS=gs://$models"
  "MLAPP_STORAGE__EXPERIMENTS=gs://$experiments/experiments"
  "MLAPP_STORAGE__REGISTRY=gs://$registry/production_models"
  "MLAPP_PLACEMENT__SERVICE_ACCOUNT=mlapp-training@$domain"
  "MLAPP_PLACEMENT__PROMOTION_SERVICE_ACCOUNT=mlapp-promotion@$domain"
  "MLAPP_PROMOTION__STARTER_MAY_APPROVE=false"
  "MLAPP_IMAGES__REPOSITORY=$region-docker.pkg.dev/$project/$REPOSITORY/mlapp-training"
  "MLAPP_IMAGES__BUILD_SERVICE_ACCOUNT=mlapp-build@$domain"
)
((wandb)) && variables+=("MLAPP_TRACKING__WANDB_SECRET=projects/$project/secrets/$SECRET")
[[ "$kms_key" ]] && variables+=("MLAPP_PLACEMENT__KMS_KEY=$kms_key")
[[ "$network" ]] && variables+=("MLAPP_PLACEMENT__NETWORK=projects/$number/global/networks/$network")
private=()
[[ "$network" ]] && private=(--enable-private-environment --enable-private-builds-only --web-server-allow-all
  "--network=$network" "--subnetwork=${subnetwork:-$network}")
joined="$(IFS=, && printf %s "${variables[*]}")"

step "The Composer environment (25 minutes; billed from now on, used or not)"
if exists gcloud composer environments describe "$environment" "--project=$project" "--location=$region"; then
  printf '%s exists and is left as it is. Its variables should be:\n' "$environment"
  printf '  %s\n' "${variables[@]}"
else
  run gcloud composer environments create "$environment" "--project=$project" "--location=$region" \
    "--image-version=$IMAGE_VERSION" "--service-account=mlapp-composer@$domain" --environment-size=small \
    --min-workers=1 --max-workers=3 --worker-cpu=1 --worker-memory=4GB --worker-storage=10GB \
    --support-web-server-plugins "${private[@]}" "${encrypted[@]/#/--kms-key=}" "--env-variables=$joined"
  if ((wandb)); then
    step "W&B's library, the one package that the workers lack"
    run gcloud composer environments update "$environment" "--project=$project" "--location=$region" \
      "--update-pypi-packages-from-file=$HERE/composer-requirements.txt"
  fi
fi
folder='gs://BUCKET-OF-THE-ENVIRONMENT/dags'
((dry_run)) || folder="$(gcloud composer environments describe "$environment" "--project=$project" \
  "--location=$region" '--format=value(config.dagGcsPrefix)')"
bucket="${folder#gs://}"
step "Cloud Build brings the DAGs into the environment's bucket"
on_bucket "${bucket%/dags}" mlapp-build roles/storage.objectUser

step "Next"
((wandb)) && printf '%s\n' "gcloud secrets versions add $SECRET --project=$project --data-file=-   # then paste the key, Ctrl-D"
printf '%s\n' "make deploy ENVIRONMENT=$environment PROJECT=$project REGION=$region"
