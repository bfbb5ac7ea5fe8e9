;; shout(text STRING) RETURNS STRING: ASCII letters become capitals. They take as many bytes as before, so they are changed where they
;; lie, and the argument's own record, its validity and its offsets with it, is the answer.
(module
  (memory (export "memory") 1)

  (func (export "alloc") (param $size i32) (result i32)
    (local $missing i32)
    (local.set $missing (i32.sub (i32.add (local.get $size) (i32.const 64)) (i32.shl (memory.size) (i32.const 16))))
    (if (i32.gt_s (local.get $missing) (i32.const 0))
      (then
        (if (i32.eq
              (memory.grow (i32.shr_u (i32.add (local.get $missing) (i32.const 65535)) (i32.const 16)))
              (i32.const -1))
          (then (return (i32.const 0))))))
    (i32.const 64))

  (func (export "call_raw") (param $rows i32) (param $columns i32) (result i32)
    (local $byte i32) (local $end i32) (local $letter i32)
    (local.set $byte (i32.load offset=4 (local.get $columns)))
    ;; the last offset is how many bytes there are
    (local.set $end
      (i32.add
        (local.get $byte)
        (i32.load (i32.add (i32.load offset=8 (local.get $columns)) (i32.shl (local.get $rows) (i32.const 2))))))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $byte) (local.get $end)))
        (local.set $letter (i32.sub (i32.load8_u (local.get $byte)) (i32.const 97)))
        (if (i32.lt_u (local.get $letter) (i32.const 26))
          (then (i32.store8 (local.get $byte) (i32.add (local.get $letter) (i32.const 65)))))
        (local.set $byte (i32.add (local.get $byte) (i32.const 1)))
        (br $next)))
    (local.get $columns)))
