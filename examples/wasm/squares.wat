;; squares(n BIGINT) RETURNS BIGINT STATE (sum BIGINT): the sum of the squares of a group's values.
;;
;; Columns: the states of the groups, the group of each row, then what the rows add: values, or states that another worker has made. A
;; new group's state is NULL over 0, so its number can be read as it lies. The states are changed where they lie and are the answer.
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

  (func $add (param $rows i32) (param $columns i32) (param $square i32) (result i32)
    (local $sums i32) (local $group i32) (local $value i32) (local $end i32) (local $sum i32) (local $n i64)
    (local.set $sums (i32.load offset=4 (local.get $columns)))
    (local.set $group (i32.load offset=16 (local.get $columns)))
    (local.set $value (i32.load offset=28 (local.get $columns)))
    (local.set $end (i32.add (local.get $value) (i32.shl (local.get $rows) (i32.const 3))))
    ;; no state is NULL any more
    (i32.store (local.get $columns) (i32.const 0))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $value) (local.get $end)))
        (local.set $n (i64.load (local.get $value)))
        (if (local.get $square) (then (local.set $n (i64.mul (local.get $n) (local.get $n)))))
        (local.set $sum (i32.add (local.get $sums) (i32.shl (i32.load (local.get $group)) (i32.const 3))))
        (i64.store (local.get $sum) (i64.add (i64.load (local.get $sum)) (local.get $n)))
        (local.set $group (i32.add (local.get $group) (i32.const 4)))
        (local.set $value (i32.add (local.get $value) (i32.const 8)))
        (br $next)))
    (local.get $columns))

  (func (export "accumulate") (param $groups i32) (param $rows i32) (param $columns i32) (result i32)
    (call $add (local.get $rows) (local.get $columns) (i32.const 1)))

  (func (export "merge") (param $groups i32) (param $rows i32) (param $columns i32) (result i32)
    (call $add (local.get $rows) (local.get $columns) (i32.const 0)))

  (func (export "result") (param $groups i32) (param $columns i32) (result i32)
    (local.get $columns)))
