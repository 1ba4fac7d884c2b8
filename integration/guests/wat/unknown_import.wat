;; expect: exit 1, stderr one line with `env.no_such_function`
(module
  (import "env" "no_such_function" (func $no (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (call $no (i32.const 1))))
