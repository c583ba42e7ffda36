#!/usr/bin/env bash
# unpack.sh ARCHIVE FOLDER ARGS...: unpack an environment (a tar of a folder with bin/python) into a
# folder of this node, once for all who come, and be its Python with these arguments. An archive that
# was changed is another one. It goes into a folder of this user's own: in /tmp anybody could have put
# another Python under a name that can be guessed.
set -euo pipefail
archive=$1 folder=$2
shift 2
stamp=$(stat -c '%s-%Y' -- "$archive") || { echo "no environment to unpack at $archive" >&2; exit 2; }
own=$folder/realnet-$(id -u)
mkdir -p -- "$folder"
mkdir -m 700 -- "$own" 2>/dev/null || true
if [ -L "$own" ] || [ ! -d "$own" ] || [ ! -O "$own" ] || [[ $(stat -c %a -- "$own") != *00 ]]; then
  echo "$own is not a folder of mode 700 of this user: remove it, or name another scratch" >&2
  exit 2
fi
home=$own/$(basename -- "$archive" | tr -c 'A-Za-z0-9.\n' '_')-$stamp
if [ ! -d "$home" ]; then
  exec 9>"$home.lock"
  flock 9
  if [ ! -d "$home" ]; then
    rm -rf -- "$home.part"
    mkdir -m 700 -- "$home.part"
    tar -xf "$archive" -C "$home.part"
    mv -- "$home.part" "$home"
  fi
  exec 9>&-
fi
exec "$home/bin/python" "$@"
