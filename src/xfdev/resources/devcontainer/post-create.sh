#!/bin/sh
# Makes the checkout ready after its container was created; safe to run again. Compiles nothing: what would have to be
# compiled is said, with the time it takes and the command, here and at every prompt until it is done.
cd "$(dirname "$0")/.." || exit
exec xfdev attach ${@{fork_variable}:+"$@{fork_variable}"}
