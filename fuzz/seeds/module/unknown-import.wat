;; expect: exit 1, stderr one line with `unknown import env.foo`
(module
  (import "env" "foo" (func (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")))
