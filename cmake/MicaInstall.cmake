# What `cmake --install` gives:
#
#   bin/mica   lib/libmica.so.0.1   include/mica/mica.h
#   lib/pkgconfig/mica.pc         lib/cmake/mica/micaConfig.cmake  (target mica::mica)
#   share/man/man1/mica.1   share/bash-completion/completions/mica   share/mica/models/
#
# Everything finds its neighbours relative to itself, so the tree may be moved.
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/mica)
set(pkgconfig_dir ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

file(RELATIVE_PATH MICA_PC_PREFIX ${CMAKE_INSTALL_PREFIX}/${pkgconfig_dir} ${CMAKE_INSTALL_PREFIX})
string(REGEX REPLACE "/$" "" MICA_PC_PREFIX "${MICA_PC_PREFIX}")
configure_file(${CMAKE_CURRENT_LIST_DIR}/mica.pc.in ${PROJECT_BINARY_DIR}/mica.pc @ONLY)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/micaConfig.cmake.in
    ${PROJECT_BINARY_DIR}/micaConfig.cmake INSTALL_DESTINATION ${package_dir})
# As SOVERSION of CMakeLists.txt has it.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/micaConfigVersion.cmake
    COMPATIBILITY SameMinorVersion)

install(TARGETS mica EXPORT micaTargets
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
    PUBLIC_HEADER DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/mica)
if(TARGET mica_cuda)
    install(TARGETS mica_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}) # beside libmica.so
endif()
install(TARGETS mica_program RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
# The program writes both from its option tables.
if(NOT CMAKE_CROSSCOMPILING OR CMAKE_CROSSCOMPILING_EMULATOR)
    set(pages ${PROJECT_BINARY_DIR}/pages)
    file(MAKE_DIRECTORY ${pages})
    add_custom_command(OUTPUT ${pages}/mica.1 ${pages}/mica
        COMMAND mica_program --man > ${pages}/mica.1
        COMMAND mica_program --completion bash > ${pages}/mica
        DEPENDS mica_program VERBATIM)
    add_custom_target(mica_pages ALL DEPENDS ${pages}/mica.1 ${pages}/mica)
    install(FILES ${pages}/mica.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
    install(FILES ${pages}/mica DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
endif()
install(EXPORT micaTargets NAMESPACE mica:: DESTINATION ${package_dir})
install(FILES ${PROJECT_BINARY_DIR}/micaConfig.cmake ${PROJECT_BINARY_DIR}/micaConfigVersion.cmake
    DESTINATION ${package_dir})
install(FILES ${PROJECT_BINARY_DIR}/mica.pc DESTINATION ${pkgconfig_dir})
foreach(demo demo demo_text)
    install(DIRECTORY ${PROJECT_SOURCE_DIR}/models/${demo}
        DESTINATION ${CMAKE_INSTALL_DATADIR}/mica/models)
endforeach()
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/NOTICE
    DESTINATION ${CMAKE_INSTALL_DOCDIR})
