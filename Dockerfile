# Builds the image from source:
#
#   docker build --build-arg VERSION="$(git describe --tags --always)" -t hourgate .
#
# Or from a prebuilt static binary, without the build stage. The directory that takes its place holds
# out/hourgate, an empty out/folder and etc/ssl/certs/ca-certificates.crt (scripts/image-check does this):
#
#   docker build --build-context build=DIRECTORY -t hourgate .

ARG GO_VERSION=1.26
ARG BASE=scratch

FROM golang:${GO_VERSION} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-X main.version=${VERSION}" -o /out/hourgate ./cmd/hourgate && \
    mkdir /out/folder

FROM ${BASE}
# The secret store is reached through TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/hourgate /hourgate
# The configuration, for reading, and the trail: a volume of each is the user's.
COPY --from=build --chown=65532:65532 /out/folder /etc/hourgate
COPY --from=build --chown=65532:65532 /out/folder /var/lib/hourgate
# A number, so that Kubernetes can see that it is not root.
USER 65532:65532
# PostgreSQL clients; metrics and health.
EXPOSE 6432 9187
ENTRYPOINT ["/hourgate"]
CMD ["serve", "--config", "/etc/hourgate/config.yaml"]
