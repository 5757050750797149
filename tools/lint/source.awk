# source.awk - checks of one C file at a time; lint.sh runs it over all of them.
#
#   -v strict=1   files of the library (src/): forbidden calls and words too
#
# Prints FILE:LINE: error|warning: TEXT. A function starts at a line "{" and ends at "}", both in
# column 1: clang-format puts them there. Comments, strings and characters are blanked before
# calls are looked for, so that prose may speak of malloc.

function complain(level, line, text) { printf "%s:%d: %s: %s\n", FILENAME, line, level, text }

# The line without comments and literals; block_comment carries over lines.
function code_of(line,    out, rest, at) {
    out = ""
    rest = line
    while (rest != "") {
        if (block_comment) {
            at = index(rest, "*/")
            if (!at) return out
            rest = substr(rest, at + 2)
            block_comment = 0
        } else if (match(rest, /^"(\\.|[^"\\])*"/) || match(rest, /^'(\\.|[^'\\])*'/)) {
            out = out "\"\""
            rest = substr(rest, RLENGTH + 1)
        } else if (substr(rest, 1, 2) == "/*") {
            block_comment = 1
            rest = substr(rest, 3)
        } else if (substr(rest, 1, 2) == "//") {
            return out
        } else {
            out = out substr(rest, 1, 1)
            rest = substr(rest, 2)
        }
    }
    return out
}

function is_allowed(name) {
    if (name ~ /^(malloc|calloc|realloc|free|aligned_alloc|posix_memalign|strdup|strndup)$/)
        return FILENAME == "src/base/mem.c" || (name == "free" && FILENAME == "src/base/utf8.c")
    return 0
}

function check_calls(code,    rest, name) {
    rest = code
    while (match(rest, /[A-Za-z_][A-Za-z0-9_]*[ ]*\(/)) {
        name = substr(rest, RSTART, RLENGTH)
        sub(/[ ]*\($/, "", name)
        # A member (x->free, x.free) is a call through somebody's table, not the C library's.
        if (name ~ forbidden && !is_allowed(name) && substr(rest, 1, RSTART - 1) !~ /(\.|->)$/)
            complain("error", FNR, name "() is not for library code")
        rest = substr(rest, RSTART + RLENGTH)
    }
}

function end_of_file() {
    if (last_file == "") return
    if (last_line > 1200) printf "%s:1: error: %d lines, 1200 are allowed\n", last_file, last_line
    else if (last_line > 800) printf "%s:1: warning: %d lines; above 800 say why in the header\n", last_file, last_line
    if (!opens_with_comment) printf "%s:1: error: the file must open with a comment\n", last_file
}

BEGIN {
    forbidden = "^(exit|_exit|quick_exit|abort|getenv|secure_getenv|setenv|system|printf|fprintf|vprintf|vfprintf|puts|fputs|putchar|perror|gets|sprintf|vsprintf|strcpy|strcat|strtok|alloca|malloc|calloc|realloc|free|aligned_alloc|posix_memalign|strdup|strndup)$"
}
FNR == 1 {
    end_of_file()
    last_file = FILENAME
    block_comment = 0
    function_start = 0
    opens_with_comment = $0 ~ /^\/\*/
}
{
    last_line = FNR
    if (/\t/) complain("error", FNR, "tab")
    if (/[ \t]$/) complain("error", FNR, "trailing space")
    if (/\r/) complain("error", FNR, "carriage return")
    # clang-format holds code to 100 columns; comments, which it leaves alone, may reach 120.
    # Columns, not bytes: continuation bytes of UTF-8 take none.
    columns = $0
    gsub(/[\200-\277]/, "", columns)
    if (length(columns) > 120) complain("error", FNR, length(columns) " columns, 120 are allowed")
    if (/(TODO|FIXME)/) complain("error", FNR, "unfinished business; finish or remove it")
    # Scratch files of tests (mkstemp, mkdtemp) may live where they always do.
    if (/\/(work|home|root|tmp|Users)\/[A-Za-z]/ && !(FILENAME ~ /^tests\// && /\/tmp\/[a-z0-9_-]*XXXXXX/)) complain("error", FNR, "path of somebody's machine")
    if (/^[ \t]*#[ \t]*if 0/) complain("error", FNR, "code switched off by #if 0")

    code = code_of($0)
    if (strict) check_calls(code)
    if (code ~ /__attribute__|__builtin_|__restrict__|__asm__/ && strict && FILENAME !~ /^(include\/mica\/mica\.h|src\/base\/compiler\.h|src\/base\/cpu\.c|src\/kernels\/)/)
        complain("error", FNR, "compiler extension; base/compiler.h is the place")
    if (code ~ /^\{[ ]*$/) function_start = FNR
    if (code ~ /^\}/ && function_start) {
        if (FNR - function_start - 1 > 150)
            complain("error", function_start, "function of " (FNR - function_start - 1) " lines, 150 are allowed")
        function_start = 0
    }
}
END { end_of_file() }
