# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# kvc_engine's exit statuses and sentences:  cmake -DPROGRAM=... -P command_line.cmake

# check(<status> <part of what is printed> <argument>...)
function(check status words)
  execute_process(COMMAND "${PROGRAM}" ${ARGN} RESULT_VARIABLE got OUTPUT_VARIABLE printed ERROR_VARIABLE complained)
  string(FIND "${printed}${complained}" "${words}" at)
  if(NOT got STREQUAL status OR at EQUAL -1)
    message(SEND_ERROR "kvc_engine ${ARGN}\n  gave ${got}, not ${status}, or did not say '${words}':\n${printed}${complained}")
  endif()
endfunction()

check(0 "usage: kvc_engine --model FILE" --help)
check(0 "exact" --list)
check(2 "--model is missing" --prompt a)
check(2 "--prompt is missing" --model a)
check(2 "unknown option '--frobnicate'" --frobnicate)
check(2 "--tokens needs a value" --model a --prompt b --tokens)
check(2 "--tokens takes a number from 1 to 1048576, not '0'" --tokens 0)
check(2 "--threads takes a number from 1 to 1024, not '2x'" --threads 2x)
check(2 "there is no cache 'none-such' (there are: exact" --model "${CMAKE_CURRENT_LIST_FILE}" --prompt a --cache none-such)
check(2 "the cache 'low-rank' is calibrated: --sample-text is missing" --model a --prompt b --cache low-rank)
check(2 "the cache 'bf16' is not calibrated" --model a --prompt b --sample-text c)
check(2 "--device takes host or cuda, not 'gpu'" --model a --prompt b --device gpu)
check(1 "kvc_engine: cannot run on a GPU" --model a --prompt b --device cuda)
check(1 "there is no file 'no-such-file.gguf'" --model no-such-file.gguf --prompt a)
check(1 "this is no GGUF file" --model "${CMAKE_CURRENT_LIST_FILE}" --prompt a)

# Models of examples/train.
set(trained "${CMAKE_CURRENT_LIST_DIR}/trained/clla-int4.safetensors")
check(0 "own cache: 9 tokens in 0.0" --model "${trained}" --prompt "The key" --tokens 3)
check(0 "fp32 cache:" --model "${trained}" --prompt "The key" --tokens 3 --cache fp32)
check(2 "there is no cache 'bf16' (there are: own, fp32)" --model "${trained}" --prompt a --cache bf16)
check(1 "kvc_engine: cannot run on a GPU" --model "${trained}" --prompt a --device cuda)
check(1 "'no-such.safetensors' cannot be read" --model no-such.safetensors --prompt a)
