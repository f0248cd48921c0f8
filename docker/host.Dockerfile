# The host: `edgeml fleet serve` and the whole command line but export. Exporting wants torch: build with
#   docker build -f docker/host.Dockerfile --build-arg EXTRAS=fleet,export -t edgeml-host .
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG EXTRAS=fleet
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY core core
COPY sdk sdk
COPY agent agent
COPY targets targets
RUN python3 -m venv /opt/edgeml \
 && /opt/edgeml/bin/pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt ".[${EXTRAS}]" \
 && /opt/edgeml/bin/pip uninstall --quiet --yes pip setuptools

FROM ${BASE}
COPY --from=build /opt/edgeml /opt/edgeml
# The repository with its keys is mounted at /var/lib/edgeml.
RUN groupadd --gid 10001 edgeml \
 && useradd --uid 10001 --gid edgeml --home-dir /var/lib/edgeml --shell /usr/sbin/nologin edgeml \
 && install -d -o edgeml -g edgeml -m 0750 /var/lib/edgeml
ENV PATH=/opt/edgeml/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1
USER edgeml
WORKDIR /var/lib/edgeml
VOLUME /var/lib/edgeml
ENTRYPOINT ["edgeml"]
CMD ["--help"]
