# Sourced by every interactive bash of the container: the environment is active, and what xfdev knows is said.
VIRTUAL_ENV_DISABLE_PROMPT=1
. "${BASH_SOURCE[0]%/xfdev/*}/bin/activate"
if [ -n "${XFDEV_STATUS:-}" ]; then
  [ -r "$XFDEV_STATUS/ready" ] && cat "$XFDEV_STATUS/ready"
  _xfdev_todo() {
    local status=$? file
    for file in "$XFDEV_STATUS"/todo-*; do [ -r "$file" ] && cat "$file"; done
    return $status
  }
  case ";${PROMPT_COMMAND:-};" in
    *";_xfdev_todo;"*) ;;
    *) PROMPT_COMMAND="_xfdev_todo${PROMPT_COMMAND:+;$PROMPT_COMMAND}" ;;
  esac
fi
