# The device agent: no torch, no compiler, nothing that export needs. linux/amd64 and linux/arm64.
#   docker build -f docker/agent.Dockerfile -t edgeml-agent .
# BASE is any Debian-like image with Python 3.11 or newer and its venv module.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY core core
COPY sdk sdk
COPY agent agent
COPY targets targets
RUN python3 -m venv /opt/edgeml \
 && /opt/edgeml/bin/pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt ".[agent,tflite]" \
 && /opt/edgeml/bin/pip uninstall --quiet --yes pip setuptools

FROM ${BASE}
COPY --from=build /opt/edgeml /opt/edgeml
# Everything that the agent writes lies in /var/lib/edgeml; the rest of the image can be mounted read-only.
RUN groupadd --gid 10001 edgeml \
 && useradd --uid 10001 --gid edgeml --home-dir /var/lib/edgeml --shell /usr/sbin/nologin edgeml \
 && install -d -o edgeml -g edgeml -m 0750 /var/lib/edgeml
ENV PATH=/opt/edgeml/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1
USER edgeml
WORKDIR /var/lib/edgeml
VOLUME /var/lib/edgeml
EXPOSE 8080
# The folder that `edgeml device enroll` wrote is mounted at /etc/edgeml.
ENTRYPOINT ["edgeml-agent"]
CMD ["run", "--config", "/etc/edgeml/agent.toml"]
