# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# kvc_report --device cuda where no GPU is visible: one sentence, status 1.  cmake -DPROGRAM=... -P no_gpu.cmake
execute_process(COMMAND "${PROGRAM}" --model none --text none --device cuda
  RESULT_VARIABLE status OUTPUT_VARIABLE printed ERROR_VARIABLE complained)
if(NOT status EQUAL 1 OR NOT printed STREQUAL "" OR
   NOT complained MATCHES "^kvc_report: cannot run on a GPU: [^\n]*\n$")
  message(FATAL_ERROR "status ${status}, not 1, or another sentence than expected:\n${printed}${complained}")
endif()
