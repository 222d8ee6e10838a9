# Debug information that nests a million inlined functions, around code that runs.
.file 1 "deep.c"
.text
.globl main
.type main,@function
main:
.loc 1 1
nop
.loc 1 2
jmp main
.Le: .size main,.Le-main
.section .debug_abbrev,"",@progbits
.uleb128 1,0x11; .byte 1; .uleb128 3,8,0x11,1,0x12,6,0x10,0x17; .byte 0,0
.uleb128 2,0x2e; .byte 1; .uleb128 3,8,0x11,1,0x12,6; .byte 0,0
.uleb128 3,0x1d; .byte 1,0,0
.byte 0
.section .debug_info,"",@progbits
.long .Lend-.Lstart
.Lstart: .value 4; .long 0; .byte 8
.uleb128 1; .asciz "deep.c"; .quad main; .long .Le-main; .long .Lline
.uleb128 2; .asciz "deep"; .quad main; .long .Le-main
.fill 1000000,1,3
.fill 1000002,1,0
.Lend:
.section .debug_line,"",@progbits
.Lline:
.section .note.GNU-stack,"",@progbits
