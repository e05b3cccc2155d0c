# The backend with its default models. It listens on port 9090 and keeps its data in /data.
#
#   docker build -t steerseg:cpu .                               # or, without Docker: make image
#   docker build -t steerseg:gpu --build-arg VARIANT=gpu .       # or: make image VARIANT=gpu
#   docker run -p 127.0.0.1:9090:9090 -v steerseg-data:/data \
#     -e STEERSEG_LABEL_STUDIO_URL=http://label-studio.example.org -e STEERSEG_LABEL_STUDIO_API_KEY steerseg:cpu
#
# Inside, it listens on every interface. So it starts only where Label Studio's address, a user and a password
# (STEERSEG_BASIC_AUTH_...), or STEERSEG_WEBHOOK_SECRET are set. STEERSEG_SERVER_NAMES adds names that others call it by.
#
# Every package has the version of requirements/image-VARIANT.lock. With --gpus all, the variant gpu uses GPUs.

ARG BASE=docker.io/library/python:3.11-slim-bookworm
ARG VARIANT=cpu


FROM ${BASE} AS build

ARG VARIANT
# Where torch and torchvision come from; left out, PyTorch's index of CPU wheels for cpu, and PyPI for gpu.
ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

RUN python -m venv /opt/steerseg
ENV PATH=/opt/steerseg/bin:$PATH

WORKDIR /src
COPY requirements/image-${VARIANT}.lock image.lock
# torch first, since sam2 is built from source against it. Its CUDA extension is not needed.
RUN index="$TORCH_INDEX" \
    && if [ -z "$index" ] && [ "$VARIANT" = cpu ]; then index=https://download.pytorch.org/whl/cpu; fi \
    && grep -E '^(torch|torchvision)==' image.lock > torch.txt \
    && pip install --no-deps ${index:+--index-url "$index"} -r torch.txt
# These layers are kept while only our own code changes.
RUN grep '^setuptools==' image.lock > setuptools.txt \
    && pip install --no-deps -r setuptools.txt \
    && SAM2_BUILD_CUDA=0 pip install --no-deps --no-build-isolation -r image.lock

COPY pyproject.toml LICENSE NOTICE README.md ./
COPY steerseg steerseg
COPY ml_backend ml_backend
RUN pip install --no-build-isolation --no-deps . \
    && pip check \
    && pip uninstall --yes pip


# What differs between the variants in use. Triton compiles its launchers with a C compiler when a GPU is first used.
FROM ${BASE} AS runtime-cpu

FROM ${BASE} AS runtime-gpu
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*


FROM runtime-${VARIANT}

RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin steerseg \
    && mkdir /data \
    && chown steerseg:steerseg /data
COPY --from=build /opt/steerseg /opt/steerseg

ENV PATH=/opt/steerseg/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OMP_WAIT_POLICY=PASSIVE \
    STEERSEG_HOST=0.0.0.0 \
    STEERSEG_PORT=9090 \
    STEERSEG_DATA_DIR=/data

USER steerseg
WORKDIR /home/steerseg
VOLUME /data
EXPOSE 9090
STOPSIGNAL SIGTERM

# With basic auth the health page answers 401, which shows as well that the server is up.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, sys, urllib.error, urllib.request\ntry:\n    urllib.request.urlopen('http://127.0.0.1:' + os.environ['STEERSEG_PORT'] + '/health', timeout=4)\nexcept urllib.error.HTTPError as error:\n    sys.exit(error.code != 401)"]

# One server process of many threads, and the model processes beside it.
CMD ["steerseg-backend", "serve"]
