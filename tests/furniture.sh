# Sourced by quickstart and tests/bench/furniture_vae. furniture_list N prints the name of a file that lists the first N
# meshes of five rooms' furniture (Debian's sweethome3d-furniture, downloaded once to the cache), in an order that mixes
# them and never changes: by checksum of the name.
furniture_list() {
    local cache=${XDG_CACHE_HOME:-${HOME:-/var/tmp}/.cache}/d3s2
    local meshes=$cache/furniture list
    if [ ! -f "$meshes/.complete" ]; then
        echo "d3s2: downloading the Debian package sweethome3d-furniture (120 MB) to $cache" >&2
        mkdir -p "$cache/download" "$meshes"
        chmod 755 "$cache" "$cache/download"
        if ! ls "$cache"/download/sweethome3d-furniture_*.deb >/dev/null 2>&1; then
            (cd "$cache/download" && apt-get download -o APT::Sandbox::User=root -qq sweethome3d-furniture >&2) ||
                { echo "d3s2: the download failed: run apt-get update, or give a folder of meshes" >&2; return 66; }
        fi
        rm -rf "$cache/unpacked"
        dpkg -x "$cache"/download/sweethome3d-furniture_*.deb "$cache/unpacked"
        local pack
        for pack in "$cache"/unpacked/usr/share/sweethome3d/furniture/*.sh3f; do
            mkdir -p "$meshes/$(basename "$pack" .sh3f)"
            unzip -qo "$pack" -d "$meshes/$(basename "$pack" .sh3f)"
        done
        rm -rf "$cache/unpacked"
        touch "$meshes/.complete"
    fi
    list=$meshes/shapes-$1.txt
    (
        cd "$meshes"
        LC_ALL=C awk -F= '
            FNR == 1 { split(FILENAME, part, "/") }
            { sub(/\r$/, "") }
            /^category#/ { category[part[1], substr($1, 10)] = $2 }
            /^model#/ { model[part[1], substr($1, 7)] = $2 }
            END {
                for (k in model) {
                    split(k, p, SUBSEP)
                    if (category[k] ~ /^(Living room|Kitchen|Bedroom|Bathroom|Office)$/) print p[1] model[k]
                }
            }' */PluginFurnitureCatalog.properties | LC_ALL=C sort -u |
            while read -r file; do
                [ ! -f "$file" ] || printf '%s %s\n' "$(printf '%s' "$file" | cksum | cut -d' ' -f1)" "$file"
            done | LC_ALL=C sort -n | cut -d' ' -f2- | awk -v n="$1" 'NR <= n'
    ) >"$list.part"
    mv "$list.part" "$list"
    echo "$list"
}
