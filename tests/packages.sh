# Sourced by quickstart and tests/run: need_packages installs what tests/packages.txt lists and this machine lacks.
# As root or with password-less sudo it installs; otherwise it prints the one line to run and returns 1. Where packages are
# not Debian's, they are left to the user, and CMake says what it does not find.
need_packages() {
    local root=$1 missing=() name
    if ! command -v dpkg-query >/dev/null; then
        echo "d3s2: no dpkg here: what tests/packages.txt lists has to be there under this system's names" >&2
        return 0
    fi
    while read -r name; do
        case $name in '' | '#'*) continue ;; esac
        dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'install ok installed' || missing+=("$name")
    done <"$root/tests/packages.txt"
    [ ${#missing[@]} -eq 0 ] && return 0
    local sudo=
    if [ "$(id -u)" -ne 0 ]; then
        if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
            sudo=sudo
        else
            echo "d3s2: packages are missing; run this once and start again:" >&2
            echo "  sudo apt-get install --no-install-recommends ${missing[*]}" >&2
            return 1
        fi
    fi
    echo "d3s2: installing ${missing[*]}"
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
        { $sudo apt-get update -qq &&
            $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; } ||
        { echo "d3s2: apt-get could not install: ${missing[*]}" >&2; return 1; }
}
