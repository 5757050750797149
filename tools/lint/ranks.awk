# ranks.awk - the layering of docs/ARCHITECTURE.md, checked on #include "..." lines.
#
#     base 1   tensor kernels text speech media 2   backend format 3   nn sample 4   diffusion completion 5   models 6   api 7
#
# A folder includes itself and folders of a smaller rank. Two folders of one rank are strangers,
# and so are two models; models/common/ is what they share. apps/ see base and their own files. An include is written "folder/file.h".

function folder_of(path,    parts, n) {
    n = split(path, parts, "/")
    if (parts[1] == "models" && n > 2) return "models/" parts[2]
    return parts[1]
}
function rank_of(folder) {
    if (folder ~ /^models\//) return rank["models"] # a model's folder and models/ itself
    return (folder in rank) ? rank[folder] : 0
}
function complain(text) { printf "%s:%d: error: %s\n", FILENAME, FNR, text }

BEGIN {
    split("base:1 tensor:2 kernels:2 text:2 speech:2 media:2 backend:3 format:3 nn:4 sample:4 diffusion:5 completion:5 models:6 api:7", pairs, " ")
    for (i in pairs) {
        split(pairs[i], pair, ":")
        rank[pair[1]] = pair[2] + 0
    }
}
/^[ \t]*#[ \t]*include[ \t]*"/ {
    target = $0
    sub(/^[^"]*"/, "", target)
    sub(/".*$/, "", target)
    if (FILENAME ~ /^apps\//) {
        if (target ~ /\// && folder_of(target) != "base") complain("apps see mica.h and base only, not \"" target "\"")
        next
    }
    own = FILENAME
    sub(/^src\//, "", own)
    from = folder_of(own)
    if (target !~ /\//) { complain("write \"folder/file.h\", not \"" target "\""); next }
    to = folder_of(target)
    if (!rank_of(to)) { complain("unknown folder in \"" target "\""); next }
    if (to == from) next
    # models/*.c is the registry over its folders; models/*.h is what each of them implements.
    if (from == "models" && to ~ /^models\//) next
    if (to == "models" && from ~ /^models\//) next
    if (to == "models/common" && from ~ /^models\//) next
    if (rank_of(to) >= rank_of(from))
        complain(from " (rank " rank_of(from) ") must not include " to " (rank " rank_of(to) ")")
}
