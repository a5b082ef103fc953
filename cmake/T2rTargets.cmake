# Settings all targets share, and the functions that make them.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR})
# Debian's -O3 defaults, without -march: kernels dispatch on the CPU at run time (Highway).
# No contraction: x*y+z rounds the same in every function that computes it.
add_compile_options(
  "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic;-Wshadow;-Wnon-virtual-dtor>"
  "$<$<COMPILE_LANGUAGE:CXX>:-Woverloaded-virtual;-Werror;-ffp-contract=off>"
  # g++ 12 sees overlaps in std::string's own code that are not there.
  "$<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-restrict>")

if(T2R_ASSERTIONS)
  string(REPLACE "-DNDEBUG" "" CMAKE_CXX_FLAGS_RELWITHDEBINFO "${CMAKE_CXX_FLAGS_RELWITHDEBINFO}")
endif()
if(T2R_SANITIZE)
  # -O1 and one instruction set (beside Highway's scalar one): sanitizers look for faults that do not
  # depend on these, and the builds take a third of the time.
  string(REGEX REPLACE "-O[0-9s] -g" "-O1" CMAKE_CXX_FLAGS_RELWITHDEBINFO "${CMAKE_CXX_FLAGS_RELWITHDEBINFO}")
  add_compile_definitions("HWY_DISABLED_TARGETS=(HWY_SSSE3|HWY_SSE4|HWY_AVX3|HWY_AVX3_DL)")
  add_compile_options(-fsanitize=${T2R_SANITIZE} -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=${T2R_SANITIZE})
  if(T2R_SANITIZE MATCHES undefined)
    add_compile_options(-fno-sanitize-recover=undefined)
  endif()
endif()

if(T2R_FUZZ)
  # g++'s warnings are the ones that count. No fuzzer computes: kernels for one instruction set will do.
  add_compile_options(-fsanitize=fuzzer-no-link -Wno-error)
  add_compile_definitions(HWY_COMPILE_ONLY_STATIC)
endif()

find_program(T2R_CCACHE ccache)
if(T2R_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${T2R_CCACHE})
endif()

find_package(Threads REQUIRED)

# t2r_library(NAME SOURCES ... DEPENDS ...): a static library; headers are included from the top.
function(t2r_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PUBLIC ${ARG_DEPENDS})
endfunction()

# t2r_test(NAME SOURCES ... DEPENDS ...): a GoogleTest binary, one ctest entry, named after the file.
# Tests run in the source directory, T2R_SOURCE_DIR is relative to it: no compilation names the place
# of the clone, so that another clone can take it from ccache.
function(t2r_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPENDS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  if(T2R_SANITIZE)
    math(EXPR ARG_TIMEOUT "4 * ${ARG_TIMEOUT}")
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE ${ARG_DEPENDS} GTest::gmock GTest::gtest GTest::gtest_main)
  # What is tested is optimised in its libraries; -O3 over tests is a quarter of their compilation.
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)
  target_compile_definitions(${name} PRIVATE T2R_SOURCE_DIR=".")
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT})
endfunction()
