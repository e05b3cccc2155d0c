# The backend with its default models. It listens on port 9090 and keeps its data in /data.
#
#   docker build -t steerseg .
#   docker run -p 127.0.0.1:9090:9090 -v steerseg-data:/data \
#     -e STEERSEG_LABEL_STUDIO_URL=http://label-studio.example.org -e STEERSEG_LABEL_STUDIO_API_KEY steerseg
#
# Inside, it listens on every interface. So it starts only where Label Studio's address, a user and a password
# (STEERSEG_BASIC_AUTH_...), or STEERSEG_WEBHOOK_SECRET are set. STEERSEG_SERVER_NAMES adds names that others call it by.
#
# The image holds torch for GPUs; with --gpus all it uses one. For a much smaller CPU image:
#   docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu -t steerseg:cpu .

FROM python:3.11-slim AS build

ARG TORCH_INDEX=https://pypi.org/simple
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

RUN python -m venv /opt/steerseg
ENV PATH=/opt/steerseg/bin:$PATH

# sam2 builds only where torch is installed already, and its CUDA extension is not needed.
RUN pip install --index-url "$TORCH_INDEX" "torch>=2.9" "torchvision>=0.24"
RUN pip install "setuptools>=77" wheel

WORKDIR /src
COPY pyproject.toml ./
# The dependencies alone first: this layer is kept while only our own code changes.
RUN python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
        > /tmp/requirements.txt \
    && SAM2_BUILD_CUDA=0 pip install --no-build-isolation -r /tmp/requirements.txt

COPY LICENSE NOTICE README.md ./
COPY steerseg steerseg
COPY ml_backend ml_backend
RUN pip install --no-build-isolation --no-deps .


FROM python:3.11-slim

RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin steerseg \
    && mkdir /data \
    && chown steerseg:steerseg /data
COPY --from=build /opt/steerseg /opt/steerseg

ENV PATH=/opt/steerseg/bin:$PATH \
    PYTHONUNBUFFERED=1 \
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

# One server process of many threads, and the model process beside it.
CMD ["steerseg-backend", "serve"]
