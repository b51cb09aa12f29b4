# Sourced by each step of the Dockerfile that uses the network. What your network needs comes in as build secrets, which
# end in no layer, no history and no label, and leave the layers the same as everybody's. From the environment of the
# `devcontainer`, `docker buildx` or `xfdev image build` command (or of the editor):
#
#   XFDEV_BUILD_CA        your CA's certificates, PEM text        --secret id=ca,env=XFDEV_BUILD_CA
#   XFDEV_BUILD_PIP_CONF  the text of a pip.conf (index, ...)     --secret id=pip,env=XFDEV_BUILD_PIP_CONF
#   XFDEV_BUILD_APT       the text of a sources.list for apt      --secret id=apt,env=XFDEV_BUILD_APT
#
# HTTP_PROXY, HTTPS_PROXY and NO_PROXY are build arguments that Docker knows by itself.

secrets=/run/secrets

apt_get() {
  set -- -o APT::Update::Error-Mode=any "$@"
  if [ -s $secrets/ca ]; then set -- -o Acquire::https::CAInfo=$secrets/ca "$@"; fi
  if [ -s $secrets/apt ]; then
    set -- -o Dir::Etc::SourceList=$secrets/apt -o Dir::Etc::SourceParts=/dev/null "$@"
  fi
  apt-get -qq -o Dpkg::Use-Pty=0 "$@"
}

if [ -s $secrets/ca ] && [ -s /etc/ssl/certs/ca-certificates.crt ]; then
  # /dev/shm is memory: nothing written there is in a layer.
  cat /etc/ssl/certs/ca-certificates.crt $secrets/ca > /dev/shm/ca.pem
  export SSL_CERT_FILE=/dev/shm/ca.pem PIP_CERT=/dev/shm/ca.pem GIT_SSL_CAINFO=/dev/shm/ca.pem
fi
if [ -s $secrets/pip ]; then export PIP_CONFIG_FILE=$secrets/pip; fi
if [ -d /run/wheels ]; then export PIP_FIND_LINKS="/run/wheels ${PIP_FIND_LINKS:-}"; fi
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_CACHE_DIR=1

# Install the lines of a lock that match a pattern: pip_install PYTHON LOCK PATTERN
pip_install() {
  grep -E "$3" "$2" > /dev/shm/lock.txt
  (umask 0; "$1" -m pip install -q --no-compile --no-deps --require-hashes --only-binary :all: -r /dev/shm/lock.txt)
  settle "$(dirname "$(dirname "$1")")"
}

# Fix the times of a virtual environment, then compile, so that what is compiled fits these times. Everybody may write
# it, since everybody's container user has another number.
settle() {
  timeless "$1"
  (umask 0; "$1/bin/python" -m compileall -q -j 0 "$1/lib" > /dev/null || true)  # some packages have Python 2 in them
}

# All that this step wrote gets the same time whenever it runs, so that the same packages make the same layer, byte for
# byte: who has it need not fetch it again. (BuildKit's rewrite-timestamp does so too late for compiled Python, and not
# for images that are kept locally.)
timeless() {
  find "${1:-/}" -xdev -newer $start -exec touch --no-dereference -d '2020-01-01T00:00:00Z' {} + 2> /dev/null || true
}

finished() {
  rm -rf /tmp/* /root/.cache
  timeless /
}

start=/dev/shm/start
touch -d '1 second ago' $start
