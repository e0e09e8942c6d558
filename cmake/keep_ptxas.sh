#!/bin/sh
# Compiler launcher of the CUDA objects. ptxas names registers, spills and serialised wgmma only while a file is compiled, so this keeps what it said beside
# the object (OBJECT.ptxas, for tools/cuda_report.py). With binutils' readelf also the code size of each kernel, from the cubins that -keep leaves.
object= previous=
for argument in "$@"; do
  if [ "$previous" = -o ]; then object=$argument; fi
  previous=$argument
done
if [ -z "$object" ]; then exec "$@"; fi

log=$object.ptxas keep=$object.keep
rm -rf "$log" "$keep"
mkdir -p "$keep"
"$@" -keep -keep-dir "$keep" >"$log.new" 2>&1
status=$?
# The terminal gets messages, not a page of numbers per kernel.
grep -vE '^ptxas info +: (Compiling entry function|Function properties for|Used [0-9]+ registers|[0-9]+ bytes gmem|Compile time)|^ +[0-9]+ bytes stack frame' "$log.new" >&2
if [ $status = 0 ]; then
  for cubin in "$keep"/*.cubin; do
    # "code <architecture> <kernel> <hexadecimal bytes>". Names: x.compute_80.sm_80.cubin, the last of several x.compute_90.cubin, an only one x.cubin.
    arch=$(expr "$cubin" : '.*\.[a-z][a-z]*_\([0-9a-z]*\)\.cubin$')
    readelf -SW "$cubin" 2>/dev/null | sed -nE "s/.* \.text\.([^ ]+) +PROGBITS +[0-9a-f]+ [0-9a-f]+ ([0-9a-f]+) .*/code ${arch:+sm_}${arch:--} \1 \2/p" >>"$log.new"
  done
  mv "$log.new" "$log"
fi
rm -rf "$keep" "$log.new"
exit $status
