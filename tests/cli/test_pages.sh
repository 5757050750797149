# test_pages.sh - the installed manual page and completion: complete, and understood by man and bash.
. "$(dirname "$0")/cli_test.sh"

share=${MICA%/bin/mica}/share
page=$share/man/man1/mica.1
script=$share/bash-completion/completions/mica

# complete WORDS...: what bash offers for the last word, one a line.
# shellcheck disable=SC2016 # the inner shell expands
complete() {
    bash -c '. "$0"; COMP_WORDS=(mica "$@"); COMP_CWORD=$#; _mica; printf "%s\n" "${COMPREPLY[@]}"' \
        "$script" "$@" | tr '\n' ' '
}
offers() {
    expected=$1
    shift
    offered=$(complete "$@")
    check "completion of '$*' offers '$offered'" [ "$offered" = "$expected " ]
}

works --man
check 'the installed page is the program'"'"'s' cmp "$out" "$page"
works --completion bash
check 'the installed completion is the program'"'"'s' cmp "$out" "$script"
fails 2 'name of a shell: bash' --completion
fails 2 'name of a shell: bash' --completion csh

# Every option of every command.
for command in image speak 'voice make' 'voice list' complete chat inspect convert bench; do
    # shellcheck disable=SC2086 # two words
    offered=" $(complete $command --)"
    # shellcheck disable=SC2086
    works $command --help
    check "help of $command fits 80 columns" awk 'length($0) > 80 { exit 1 }' "$out"
    for option in $(grep -Eo '^  (-.,|   ) --[a-z0-9-]+' "$out" | grep -Eo -- '--.*'); do
        check "$command $option is in the page" \
            grep -Fq -- "\fB$(echo "$option" | sed 's/-/\\-/g')\fR" "$page"
        check "$command $option is completed" [ "${offered#* "$option" }" != "$offered" ]
    done
done
if command -v man >/dev/null; then
    check 'man takes the page' sh -c '! man --warnings=all -l "$1" 2>&1 >/dev/null | grep .' - "$page"
fi

offers 'image inspect' i
offers 'make list --help' voice ''
offers '--recipe --ref-pixels' image --re
offers '--steps --strength' image --st
offers 'euler' image model/ --solver eu
offers 'f32 q8' chat --cache-type ''
offers '' image model/ --mask ''
finish
