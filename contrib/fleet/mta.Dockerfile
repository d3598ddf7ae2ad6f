# A Postfix that logs to the container's output.
FROM debian:12-slim
RUN apt-get update \
	&& DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postfix ca-certificates \
	&& rm -rf /var/lib/apt/lists/* \
	&& postconf -F '*/*/chroot = n'
COPY main.cf /etc/postfix/main.cf
EXPOSE 25
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["postfix", "status"]
CMD ["postfix", "start-fg"]
