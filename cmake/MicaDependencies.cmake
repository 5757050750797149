# The libraries of docs/ARCHITECTURE.md, as imported targets with one naming style.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS C)
find_package(PNG REQUIRED)
find_package(JPEG REQUIRED)

function(mica_pkg_config target module)
    pkg_check_modules(${module} REQUIRED IMPORTED_TARGET ${module})
    add_library(${target} INTERFACE IMPORTED GLOBAL)
    target_link_libraries(${target} INTERFACE PkgConfig::${module})
endfunction()
mica_pkg_config(cjson::cjson libcjson)
mica_pkg_config(utf8proc::utf8proc libutf8proc)
mica_pkg_config(pcre2::pcre2 libpcre2-8)
mica_pkg_config(webp::webp libwebp)

# oneDNN ships no pkg-config file in Debian.
find_path(DNNL_INCLUDE_DIR dnnl.h REQUIRED)
find_library(DNNL_LIBRARY dnnl REQUIRED)
add_library(dnnl::dnnl INTERFACE IMPORTED GLOBAL)
target_include_directories(dnnl::dnnl SYSTEM INTERFACE ${DNNL_INCLUDE_DIR})
target_link_libraries(dnnl::dnnl INTERFACE ${DNNL_LIBRARY})
