# Warnings, sanitizers and the few code-generation flags that every target shares.
add_library(mica_warnings INTERFACE)
target_compile_options(mica_warnings INTERFACE
    -Wall -Wextra -Wshadow -Wundef -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wcast-qual
    -Wwrite-strings -Wpointer-arith -Wformat=2
    # Never -ffast-math: masks need infinities and NaN must survive to be reported.
    -fno-math-errno -fno-trapping-math -ffp-contract=off)
# AUTO, the presets' choice for optimised builds: errors with the compilers that this is developed
# with (Debian 12's). Another version may know warnings that nobody here has seen, and those must
# not keep a user from building.
set(mica_werror ${MICA_WERROR})
if(MICA_WERROR STREQUAL "AUTO")
    set(mica_werror OFF)
    if("${CMAKE_C_COMPILER_ID} ${CMAKE_C_COMPILER_VERSION}" MATCHES "^(GNU 12|Clang 14)\\.")
        set(mica_werror ON)
    endif()
endif()
if(mica_werror)
    target_compile_options(mica_warnings INTERFACE -Werror)
endif()
if(MICA_BUILD_FUZZ)
    if(NOT CMAKE_C_COMPILER_ID MATCHES Clang)
        message(FATAL_ERROR "MICA_BUILD_FUZZ needs clang: cmake --preset fuzz")
    endif()
    add_compile_options(-fsanitize=fuzzer-no-link)
endif()
if(MICA_SANITIZE)
    add_compile_options(-fsanitize=${MICA_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=undefined -g)
    add_link_options(-fsanitize=${MICA_SANITIZE})
endif()
