using Iced.Intel;

namespace Bunraku.Processor.X86;

internal static unsafe partial class InstructionTable
{
    private static partial void SystemInstructions(Builder t)
    {
#pragma warning disable IDE0055 // one aligned row an instruction
        // Segment registers
        t.Add(Code.Mov_rm16_Sreg,      &SegmentInstructions.MoveFromReg<ushort>,            &SegmentInstructions.MoveFromMem,                flags: Row.Writes);
        t.Add(Code.Mov_r32m16_Sreg,    &SegmentInstructions.MoveFromReg<uint>,              &SegmentInstructions.MoveFromMem,                flags: Row.Writes);
        t.Add(Code.Mov_r64m16_Sreg,    &SegmentInstructions.MoveFromReg<ulong>,             &SegmentInstructions.MoveFromMem,                flags: Row.Writes);
        t.Add(Code.Mov_Sreg_rm16,      &SegmentInstructions.MoveToReg,                      &SegmentInstructions.MoveToMem,                  flags: Row.EndsBlock);
        t.Add(Code.Mov_Sreg_r32m16,    &SegmentInstructions.MoveToReg,                      &SegmentInstructions.MoveToMem,                  flags: Row.EndsBlock);
        t.Add(Code.Mov_Sreg_r64m16,    &SegmentInstructions.MoveToReg,                      &SegmentInstructions.MoveToMem,                  flags: Row.EndsBlock);
        t.Add(Code.Pushw_ES,           &SegmentInstructions.Push<ushort>,                   null,                                            flags: Row.OwnSegmentation);
        t.Add(Code.Popw_ES,            &SegmentInstructions.Pop<ushort>,                    null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Pushd_ES,           &SegmentInstructions.Push<uint>,                     null,                                            flags: Row.OwnSegmentation);
        t.Add(Code.Popd_ES,            &SegmentInstructions.Pop<uint>,                      null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Pushw_CS,           &SegmentInstructions.Push<ushort>,                   null,                                            flags: Row.OwnSegmentation);
        t.Add(Code.Pushd_CS,           &SegmentInstructions.Push<uint>,                     null,                                            flags: Row.OwnSegmentation);
        t.Add(Code.Pushw_SS,           &SegmentInstructions.Push<ushort>,                   null,                                            flags: Row.OwnSegmentation);
        t.Add(Code.Popw_SS,            &SegmentInstructions.Pop<ushort>,                    null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Pushd_SS,           &SegmentInstructions.Push<uint>,                     null,                                            flags: Row.OwnSegmentation);
        t.Add(Code.Popd_SS,            &SegmentInstructions.Pop<uint>,                      null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Pushw_DS,           &SegmentInstructions.Push<ushort>,                   null,                                            flags: Row.OwnSegmentation);
        t.Add(Code.Popw_DS,            &SegmentInstructions.Pop<ushort>,                    null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Pushd_DS,           &SegmentInstructions.Push<uint>,                     null,                                            flags: Row.OwnSegmentation);
        t.Add(Code.Popd_DS,            &SegmentInstructions.Pop<uint>,                      null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Pushw_FS,           &SegmentInstructions.Push<ushort>,                   null,                                            flags: Row.OwnSegmentation);
        t.Add(Code.Popw_FS,            &SegmentInstructions.Pop<ushort>,                    null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Pushd_FS,           &SegmentInstructions.Push<uint>,                     null,                                            flags: Row.OwnSegmentation);
        t.Add(Code.Popd_FS,            &SegmentInstructions.Pop<uint>,                      null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Pushq_FS,           &SegmentInstructions.Push<ulong>,                    null,                                            flags: Row.OwnSegmentation);
        t.Add(Code.Popq_FS,            &SegmentInstructions.Pop<ulong>,                     null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Pushw_GS,           &SegmentInstructions.Push<ushort>,                   null,                                            flags: Row.OwnSegmentation);
        t.Add(Code.Popw_GS,            &SegmentInstructions.Pop<ushort>,                    null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Pushd_GS,           &SegmentInstructions.Push<uint>,                     null,                                            flags: Row.OwnSegmentation);
        t.Add(Code.Popd_GS,            &SegmentInstructions.Pop<uint>,                      null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Pushq_GS,           &SegmentInstructions.Push<ulong>,                    null,                                            flags: Row.OwnSegmentation);
        t.Add(Code.Popq_GS,            &SegmentInstructions.Pop<ulong>,                     null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Les_r16_m1616,      null,                                                &SegmentInstructions.LoadFar<ushort, EsNumber>,  flags: Row.EndsBlock);
        t.Add(Code.Les_r32_m1632,      null,                                                &SegmentInstructions.LoadFar<uint, EsNumber>,    flags: Row.EndsBlock);
        t.Add(Code.Lss_r16_m1616,      null,                                                &SegmentInstructions.LoadFar<ushort, SsNumber>,  flags: Row.EndsBlock);
        t.Add(Code.Lss_r32_m1632,      null,                                                &SegmentInstructions.LoadFar<uint, SsNumber>,    flags: Row.EndsBlock);
        t.Add(Code.Lss_r64_m1664,      null,                                                &SegmentInstructions.LoadFar<ulong, SsNumber>,   flags: Row.EndsBlock);
        t.Add(Code.Lds_r16_m1616,      null,                                                &SegmentInstructions.LoadFar<ushort, DsNumber>,  flags: Row.EndsBlock);
        t.Add(Code.Lds_r32_m1632,      null,                                                &SegmentInstructions.LoadFar<uint, DsNumber>,    flags: Row.EndsBlock);
        t.Add(Code.Lfs_r16_m1616,      null,                                                &SegmentInstructions.LoadFar<ushort, FsNumber>,  flags: Row.EndsBlock);
        t.Add(Code.Lfs_r32_m1632,      null,                                                &SegmentInstructions.LoadFar<uint, FsNumber>,    flags: Row.EndsBlock);
        t.Add(Code.Lfs_r64_m1664,      null,                                                &SegmentInstructions.LoadFar<ulong, FsNumber>,   flags: Row.EndsBlock);
        t.Add(Code.Lgs_r16_m1616,      null,                                                &SegmentInstructions.LoadFar<ushort, GsNumber>,  flags: Row.EndsBlock);
        t.Add(Code.Lgs_r32_m1632,      null,                                                &SegmentInstructions.LoadFar<uint, GsNumber>,    flags: Row.EndsBlock);
        t.Add(Code.Lgs_r64_m1664,      null,                                                &SegmentInstructions.LoadFar<ulong, GsNumber>,   flags: Row.EndsBlock);

        // Descriptor tables and selectors
        t.Add(Code.Lgdt_m1632_16,      null,                                                &DescriptorTableInstructions.Lgdt24,             flags: Row.Serializes | Row.Cpl0, intercept: InterceptedInstructions.DescriptorTable);
        t.Add(Code.Lgdt_m1632,         null,                                                &DescriptorTableInstructions.Lgdt<uint>,         flags: Row.Serializes | Row.Cpl0, intercept: InterceptedInstructions.DescriptorTable);
        t.Add(Code.Lgdt_m1664,         null,                                                &DescriptorTableInstructions.Lgdt<ulong>,        flags: Row.Serializes | Row.Cpl0, intercept: InterceptedInstructions.DescriptorTable);
        t.Add(Code.Lidt_m1632_16,      null,                                                &DescriptorTableInstructions.Lidt24,             flags: Row.Serializes | Row.Cpl0, intercept: InterceptedInstructions.DescriptorTable);
        t.Add(Code.Lidt_m1632,         null,                                                &DescriptorTableInstructions.Lidt<uint>,         flags: Row.Serializes | Row.Cpl0, intercept: InterceptedInstructions.DescriptorTable);
        t.Add(Code.Lidt_m1664,         null,                                                &DescriptorTableInstructions.Lidt<ulong>,        flags: Row.Serializes | Row.Cpl0, intercept: InterceptedInstructions.DescriptorTable);
        t.Add(Code.Sgdt_m1632_16,      null,                                                &DescriptorTableInstructions.Sgdt<uint>,         flags: Row.Writes, intercept: InterceptedInstructions.DescriptorTable);
        t.Add(Code.Sgdt_m1632,         null,                                                &DescriptorTableInstructions.Sgdt<uint>,         flags: Row.Writes, intercept: InterceptedInstructions.DescriptorTable);
        t.Add(Code.Sgdt_m1664,         null,                                                &DescriptorTableInstructions.Sgdt<ulong>,        flags: Row.Writes, intercept: InterceptedInstructions.DescriptorTable);
        t.Add(Code.Sidt_m1632_16,      null,                                                &DescriptorTableInstructions.Sidt<uint>,         flags: Row.Writes, intercept: InterceptedInstructions.DescriptorTable);
        t.Add(Code.Sidt_m1632,         null,                                                &DescriptorTableInstructions.Sidt<uint>,         flags: Row.Writes, intercept: InterceptedInstructions.DescriptorTable);
        t.Add(Code.Sidt_m1664,         null,                                                &DescriptorTableInstructions.Sidt<ulong>,        flags: Row.Writes, intercept: InterceptedInstructions.DescriptorTable);
        t.Add(Code.Lldt_rm16,          &DescriptorTableInstructions.LldtReg,                &DescriptorTableInstructions.LldtMem,            flags: Row.Serializes | Row.Cpl0 | Row.ProtectedOnly, intercept: InterceptedInstructions.DescriptorTable);
        t.Add(Code.Lldt_r32m16,        &DescriptorTableInstructions.LldtReg,                &DescriptorTableInstructions.LldtMem,            flags: Row.Serializes | Row.Cpl0 | Row.ProtectedOnly, intercept: InterceptedInstructions.DescriptorTable);
        t.Add(Code.Lldt_r64m16,        &DescriptorTableInstructions.LldtReg,                &DescriptorTableInstructions.LldtMem,            flags: Row.Serializes | Row.Cpl0 | Row.ProtectedOnly, intercept: InterceptedInstructions.DescriptorTable);
        t.Add(Code.Ltr_rm16,           &DescriptorTableInstructions.LtrReg,                 &DescriptorTableInstructions.LtrMem,             flags: Row.Serializes | Row.Cpl0 | Row.ProtectedOnly, intercept: InterceptedInstructions.DescriptorTable);
        t.Add(Code.Ltr_r32m16,         &DescriptorTableInstructions.LtrReg,                 &DescriptorTableInstructions.LtrMem,             flags: Row.Serializes | Row.Cpl0 | Row.ProtectedOnly, intercept: InterceptedInstructions.DescriptorTable);
        t.Add(Code.Ltr_r64m16,         &DescriptorTableInstructions.LtrReg,                 &DescriptorTableInstructions.LtrMem,             flags: Row.Serializes | Row.Cpl0 | Row.ProtectedOnly, intercept: InterceptedInstructions.DescriptorTable);
        t.Add(Code.Sldt_rm16,          &DescriptorTableInstructions.SldtReg<ushort>,        &DescriptorTableInstructions.SldtMem,            flags: Row.Writes | Row.ProtectedOnly, intercept: InterceptedInstructions.DescriptorTable);
        t.Add(Code.Sldt_r32m16,        &DescriptorTableInstructions.SldtReg<uint>,          &DescriptorTableInstructions.SldtMem,            flags: Row.Writes | Row.ProtectedOnly, intercept: InterceptedInstructions.DescriptorTable);
        t.Add(Code.Sldt_r64m16,        &DescriptorTableInstructions.SldtReg<ulong>,         &DescriptorTableInstructions.SldtMem,            flags: Row.Writes | Row.ProtectedOnly, intercept: InterceptedInstructions.DescriptorTable);
        t.Add(Code.Str_rm16,           &DescriptorTableInstructions.StrReg<ushort>,         &DescriptorTableInstructions.StrMem,             flags: Row.Writes | Row.ProtectedOnly, intercept: InterceptedInstructions.DescriptorTable);
        t.Add(Code.Str_r32m16,         &DescriptorTableInstructions.StrReg<uint>,           &DescriptorTableInstructions.StrMem,             flags: Row.Writes | Row.ProtectedOnly, intercept: InterceptedInstructions.DescriptorTable);
        t.Add(Code.Str_r64m16,         &DescriptorTableInstructions.StrReg<ulong>,          &DescriptorTableInstructions.StrMem,             flags: Row.Writes | Row.ProtectedOnly, intercept: InterceptedInstructions.DescriptorTable);
        t.Add(Code.Smsw_rm16,          &DescriptorTableInstructions.SmswReg<ushort>,        &DescriptorTableInstructions.SmswMem,            flags: Row.Writes);
        t.Add(Code.Smsw_r32m16,        &DescriptorTableInstructions.SmswReg<uint>,          &DescriptorTableInstructions.SmswMem,            flags: Row.Writes);
        t.Add(Code.Smsw_r64m16,        &DescriptorTableInstructions.SmswReg<ulong>,         &DescriptorTableInstructions.SmswMem,            flags: Row.Writes);
        t.Add(Code.Lmsw_rm16,          &DescriptorTableInstructions.LmswReg,                &DescriptorTableInstructions.LmswMem,            flags: Row.EndsBlock | Row.Cpl0, intercept: InterceptedInstructions.Cr0);
        t.Add(Code.Lmsw_r32m16,        &DescriptorTableInstructions.LmswReg,                &DescriptorTableInstructions.LmswMem,            flags: Row.EndsBlock | Row.Cpl0, intercept: InterceptedInstructions.Cr0);
        t.Add(Code.Lmsw_r64m16,        &DescriptorTableInstructions.LmswReg,                &DescriptorTableInstructions.LmswMem,            flags: Row.EndsBlock | Row.Cpl0, intercept: InterceptedInstructions.Cr0);
        t.Add(Code.Arpl_rm16_r16,      &DescriptorTableInstructions.ArplReg,                &DescriptorTableInstructions.ArplMem,            flags: Row.Modifies | Row.ProtectedOnly);
        t.Add(Code.Arpl_r32m16_r32,    &DescriptorTableInstructions.ArplReg,                &DescriptorTableInstructions.ArplMem,            flags: Row.Modifies | Row.ProtectedOnly);
        t.Add(Code.Lar_r16_rm16,       &DescriptorTableInstructions.LarReg<ushort>,         &DescriptorTableInstructions.LarMem<ushort>,     flags: Row.ProtectedOnly);
        t.Add(Code.Lar_r32_r32m16,     &DescriptorTableInstructions.LarReg<uint>,           &DescriptorTableInstructions.LarMem<uint>,       flags: Row.ProtectedOnly);
        t.Add(Code.Lar_r64_r64m16,     &DescriptorTableInstructions.LarReg<ulong>,          &DescriptorTableInstructions.LarMem<ulong>,      flags: Row.ProtectedOnly);
        t.Add(Code.Lsl_r16_rm16,       &DescriptorTableInstructions.LslReg<ushort>,         &DescriptorTableInstructions.LslMem<ushort>,     flags: Row.ProtectedOnly);
        t.Add(Code.Lsl_r32_r32m16,     &DescriptorTableInstructions.LslReg<uint>,           &DescriptorTableInstructions.LslMem<uint>,       flags: Row.ProtectedOnly);
        t.Add(Code.Lsl_r64_r64m16,     &DescriptorTableInstructions.LslReg<ulong>,          &DescriptorTableInstructions.LslMem<ulong>,      flags: Row.ProtectedOnly);
        t.Add(Code.Verr_rm16,          &DescriptorTableInstructions.VerrReg,                &DescriptorTableInstructions.VerrMem,            flags: Row.ProtectedOnly);
        t.Add(Code.Verr_r32m16,        &DescriptorTableInstructions.VerrReg,                &DescriptorTableInstructions.VerrMem,            flags: Row.ProtectedOnly);
        t.Add(Code.Verr_r64m16,        &DescriptorTableInstructions.VerrReg,                &DescriptorTableInstructions.VerrMem,            flags: Row.ProtectedOnly);
        t.Add(Code.Verw_rm16,          &DescriptorTableInstructions.VerwReg,                &DescriptorTableInstructions.VerwMem,            flags: Row.ProtectedOnly);
        t.Add(Code.Verw_r32m16,        &DescriptorTableInstructions.VerwReg,                &DescriptorTableInstructions.VerwMem,            flags: Row.ProtectedOnly);
        t.Add(Code.Verw_r64m16,        &DescriptorTableInstructions.VerwReg,                &DescriptorTableInstructions.VerwMem,            flags: Row.ProtectedOnly);

        // Far transfers and interrupts
        t.Add(Code.Jmp_ptr1616,        &FarInstructions.JumpDirect<ushort>,                 null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Jmp_m1616,          null,                                                &FarInstructions.JumpIndirect<ushort>,           flags: Row.EndsBlock);
        t.Add(Code.Jmp_ptr1632,        &FarInstructions.JumpDirect<uint>,                   null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Jmp_m1632,          null,                                                &FarInstructions.JumpIndirect<uint>,             flags: Row.EndsBlock);
        t.Add(Code.Jmp_m1664,          null,                                                &FarInstructions.JumpIndirect<ulong>,            flags: Row.EndsBlock);
        t.Add(Code.Call_ptr1616,       &FarInstructions.CallDirect<ushort>,                 null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Call_m1616,         null,                                                &FarInstructions.CallIndirect<ushort>,           flags: Row.EndsBlock);
        t.Add(Code.Call_ptr1632,       &FarInstructions.CallDirect<uint>,                   null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Call_m1632,         null,                                                &FarInstructions.CallIndirect<uint>,             flags: Row.EndsBlock);
        t.Add(Code.Call_m1664,         null,                                                &FarInstructions.CallIndirect<ulong>,            flags: Row.EndsBlock);
        t.Add(Code.Retfw,              &FarInstructions.Return<ushort>,                     null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Retfw_imm16,        &FarInstructions.ReturnImmediate<ushort>,            null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Iretw,              &FarInstructions.Iret<ushort>,                       null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Retfd,              &FarInstructions.Return<uint>,                       null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Retfd_imm16,        &FarInstructions.ReturnImmediate<uint>,              null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Iretd,              &FarInstructions.Iret<uint>,                         null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Retfq,              &FarInstructions.Return<ulong>,                      null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Retfq_imm16,        &FarInstructions.ReturnImmediate<ulong>,             null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Iretq,              &FarInstructions.Iret<ulong>,                        null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Int_imm8,           &FarInstructions.Int,                                null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Int3,               &FarInstructions.Int3,                               null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Into,               &FarInstructions.Into,                               null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Int1,               &FarInstructions.Int1,                               null,                                            flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Syscall,            &FastSystemCalls.Syscall,                            null,                                            flags: Row.EndsBlock);
        t.Add(Code.Sysretd,            &FastSystemCalls.Sysretd,                            null,                                            flags: Row.EndsBlock);
        t.Add(Code.Sysretq,            &FastSystemCalls.Sysretq,                            null,                                            flags: Row.EndsBlock);
        t.Add(Code.Sysenter,           &FastSystemCalls.Sysenter,                           null,                                            flags: Row.EndsBlock);
        t.Add(Code.Sysexitd,           &FastSystemCalls.Sysexitd,                           null,                                            flags: Row.EndsBlock);
        t.Add(Code.Sysexitq,           &FastSystemCalls.Sysexitq,                           null,                                            flags: Row.EndsBlock);
        t.Add(Code.Swapgs,             &FastSystemCalls.Swapgs,                             null,                                            flags: Row.Cpl0);

        // Control, debug and model-specific registers
        t.Add(Code.Mov_r32_cr,         &ControlInstructions.MoveFromCr<uint>,               null,                                            flags: Row.EndsBlock | Row.Cpl0, intercept: InterceptedInstructions.Cr3Store);
        t.Add(Code.Mov_cr_r32,         &ControlInstructions.MoveToCr<uint>,                 null,                                            flags: Row.EndsBlock | Row.Cpl0, intercept: InterceptedInstructions.Cr0 | InterceptedInstructions.Cr3Load | InterceptedInstructions.Cr4);
        t.Add(Code.Mov_r32_dr,         &DebugInstructions.Read<uint>,                       null,                                            flags: Row.Cpl0, intercept: InterceptedInstructions.MovDr);
        t.Add(Code.Mov_dr_r32,         &DebugInstructions.Write<uint>,                      null,                                            flags: Row.EndsBlock | Row.Cpl0, intercept: InterceptedInstructions.MovDr);
        t.Add(Code.Rdfsbase_r32,       &ControlInstructions.ReadBase<uint, FsNumber>,       null);
        t.Add(Code.Wrfsbase_r32,       &ControlInstructions.WriteBase<uint, FsNumber>,      null);
        t.Add(Code.Rdgsbase_r32,       &ControlInstructions.ReadBase<uint, GsNumber>,       null);
        t.Add(Code.Wrgsbase_r32,       &ControlInstructions.WriteBase<uint, GsNumber>,      null);
        t.Add(Code.Invpcid_r32_m128,   null,                                                &ControlInstructions.Invpcid<uint>,              flags: Row.EndsBlock | Row.Cpl0 | Row.ProtectedOnly, intercept: InterceptedInstructions.Invlpg);
        t.Add(Code.Rdpid_r32,          &ControlInstructions.Rdpid,                          null);
        t.Add(Code.Mov_r64_cr,         &ControlInstructions.MoveFromCr<ulong>,              null,                                            flags: Row.EndsBlock | Row.Cpl0, intercept: InterceptedInstructions.Cr3Store);
        t.Add(Code.Mov_cr_r64,         &ControlInstructions.MoveToCr<ulong>,                null,                                            flags: Row.EndsBlock | Row.Cpl0, intercept: InterceptedInstructions.Cr0 | InterceptedInstructions.Cr3Load | InterceptedInstructions.Cr4);
        t.Add(Code.Mov_r64_dr,         &DebugInstructions.Read<ulong>,                      null,                                            flags: Row.Cpl0, intercept: InterceptedInstructions.MovDr);
        t.Add(Code.Mov_dr_r64,         &DebugInstructions.Write<ulong>,                     null,                                            flags: Row.EndsBlock | Row.Cpl0, intercept: InterceptedInstructions.MovDr);
        t.Add(Code.Rdfsbase_r64,       &ControlInstructions.ReadBase<ulong, FsNumber>,      null);
        t.Add(Code.Wrfsbase_r64,       &ControlInstructions.WriteBase<ulong, FsNumber>,     null);
        t.Add(Code.Rdgsbase_r64,       &ControlInstructions.ReadBase<ulong, GsNumber>,      null);
        t.Add(Code.Wrgsbase_r64,       &ControlInstructions.WriteBase<ulong, GsNumber>,     null);
        t.Add(Code.Invpcid_r64_m128,   null,                                                &ControlInstructions.Invpcid<ulong>,             flags: Row.EndsBlock | Row.Cpl0 | Row.ProtectedOnly, intercept: InterceptedInstructions.Invlpg);
        t.Add(Code.Rdpid_r64,          &ControlInstructions.Rdpid,                          null);
        t.Add(Code.Clts,               &ControlInstructions.Clts,                           null,                                            flags: Row.EndsBlock | Row.Cpl0, intercept: InterceptedInstructions.Cr0);
        t.Add(Code.Rdmsr,              &ControlInstructions.Rdmsr,                          null,                                            flags: Row.EndsBlock | Row.Cpl0);
        t.Add(Code.Wrmsr,              &ControlInstructions.Wrmsr,                          null,                                            flags: Row.EndsBlock | Row.Cpl0);
        t.Add(Code.Xgetbv,             &ControlInstructions.Xgetbv,                         null);
        t.Add(Code.Xsetbv,             &ControlInstructions.Xsetbv,                         null,                                            flags: Row.EndsBlock);
        t.Add(Code.Rdpkru,             &ControlInstructions.Rdpkru,                         null);
        t.Add(Code.Wrpkru,             &ControlInstructions.Wrpkru,                         null);

        // TLB, caches, time, identification
        t.Add(Code.Invlpg_m,           null,                                                &ControlInstructions.Invlpg,                     flags: Row.EndsBlock | Row.Cpl0 | Row.AddressOnly, intercept: InterceptedInstructions.Invlpg);
        t.Add(Code.Invd,               &ControlInstructions.CacheControl,                   null,                                            flags: Row.Serializes | Row.Cpl0, intercept: InterceptedInstructions.Wbinvd);
        t.Add(Code.Wbinvd,             &ControlInstructions.CacheControl,                   null,                                            flags: Row.Serializes | Row.Cpl0, intercept: InterceptedInstructions.Wbinvd);
        t.Add(Code.Wbnoinvd,           &ControlInstructions.CacheControl,                   null,                                            flags: Row.Cpl0, intercept: InterceptedInstructions.Wbinvd);
        t.Add(Code.Rdtsc,              &ControlInstructions.Rdtsc,                          null, intercept: InterceptedInstructions.Rdtsc);
        t.Add(Code.Rdtscp,             &ControlInstructions.Rdtscp,                         null, intercept: InterceptedInstructions.Rdtsc);
        t.Add(Code.Rdpmc,              &ControlInstructions.Rdpmc,                          null, intercept: InterceptedInstructions.Rdpmc);
        t.Add(Code.Cpuid,              &ControlInstructions.Cpuid,                          null, flags: Row.Serializes, intercept: InterceptedInstructions.Cpuid);
        t.Add(Code.Monitorw,           &ControlInstructions.Monitor,                        null,                                            flags: Row.OwnSegmentation);
        t.Add(Code.Monitord,           &ControlInstructions.Monitor,                        null,                                            flags: Row.OwnSegmentation);
        t.Add(Code.Monitorq,           &ControlInstructions.Monitor,                        null,                                            flags: Row.OwnSegmentation);
        t.Add(Code.Mwait,              &ControlInstructions.Mwait,                          null,                                            flags: Row.EndsBlock, intercept: InterceptedInstructions.Mwait);

        // Interrupt flag, HLT, hypervisor
        t.Add(Code.Cli,                &ControlInstructions.Cli,                            null);
        t.Add(Code.Sti,                &ControlInstructions.Sti,                            null,                                            flags: Row.EndsBlock);
        t.Add(Code.Hlt,                &ControlInstructions.Hlt,                            null,                                            flags: Row.EndsBlock | Row.Cpl0);
        t.Add(Code.Clac,               &ControlInstructions.Clac,                           null,                                            flags: Row.EndsBlock);
        t.Add(Code.Stac,               &ControlInstructions.Stac,                           null,                                            flags: Row.EndsBlock);
        t.Add(Code.Vmcall,             &VmxInstructions.Vmcall,                             null,                                            flags: Row.EndsBlock);
        t.Add(Code.Vmfunc,             &VmxInstructions.Vmfunc,                             null,                                            flags: Row.EndsBlock);
        t.Add(Code.Vmlaunch,           &VmxInstructions.Vmlaunch,                           null,                                            flags: Row.EndsBlock);
        t.Add(Code.Vmresume,           &VmxInstructions.Vmresume,                           null,                                            flags: Row.EndsBlock);
        t.Add(Code.Vmxoff,             &VmxInstructions.Vmxoff,                             null,                                            flags: Row.EndsBlock);
        t.Add(Code.Vmxon_m64,          null,                                                &VmxInstructions.Vmxon,                          flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Vmclear_m64,        null,                                                &VmxInstructions.Vmclear,                        flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Vmptrld_m64,        null,                                                &VmxInstructions.Vmptrld,                        flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Vmptrst_m64,        null,                                                &VmxInstructions.Vmptrst,                        flags: Row.EndsBlock | Row.OwnSegmentation | Row.Writes);
        t.Add(Code.Vmread_rm32_r32,    &VmxInstructions.Vmread<uint>,                       &VmxInstructions.Vmread<uint>,                   flags: Row.EndsBlock | Row.OwnSegmentation | Row.Writes);
        t.Add(Code.Vmread_rm64_r64,    &VmxInstructions.Vmread<ulong>,                      &VmxInstructions.Vmread<ulong>,                  flags: Row.EndsBlock | Row.OwnSegmentation | Row.Writes);
        t.Add(Code.Vmwrite_r32_rm32,   &VmxInstructions.Vmwrite<uint>,                      &VmxInstructions.Vmwrite<uint>,                  flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Vmwrite_r64_rm64,   &VmxInstructions.Vmwrite<ulong>,                     &VmxInstructions.Vmwrite<ulong>,                 flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Invept_r32_m128,    null,                                                &VmxInstructions.Invept<uint>,                   flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Invept_r64_m128,    null,                                                &VmxInstructions.Invept<ulong>,                  flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Invvpid_r32_m128,   null,                                                &VmxInstructions.Invvpid<uint>,                  flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Invvpid_r64_m128,   null,                                                &VmxInstructions.Invvpid<ulong>,                 flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Vmmcall,            &ControlInstructions.Hypercall,                      null,                                            flags: Row.EndsBlock);
        t.Add(Code.Vmrunw,             &SvmInstructions.Vmrun,                              null,                                            flags: Row.EndsBlock | Row.ProtectedOnly);
        t.Add(Code.Vmrund,             &SvmInstructions.Vmrun,                              null,                                            flags: Row.EndsBlock | Row.ProtectedOnly);
        t.Add(Code.Vmrunq,             &SvmInstructions.Vmrun,                              null,                                            flags: Row.EndsBlock | Row.ProtectedOnly);
        t.Add(Code.Vmloadw,            &SvmInstructions.Vmload,                             null,                                            flags: Row.EndsBlock | Row.ProtectedOnly);
        t.Add(Code.Vmloadd,            &SvmInstructions.Vmload,                             null,                                            flags: Row.EndsBlock | Row.ProtectedOnly);
        t.Add(Code.Vmloadq,            &SvmInstructions.Vmload,                             null,                                            flags: Row.EndsBlock | Row.ProtectedOnly);
        t.Add(Code.Vmsavew,            &SvmInstructions.Vmsave,                             null,                                            flags: Row.EndsBlock | Row.ProtectedOnly);
        t.Add(Code.Vmsaved,            &SvmInstructions.Vmsave,                             null,                                            flags: Row.EndsBlock | Row.ProtectedOnly);
        t.Add(Code.Vmsaveq,            &SvmInstructions.Vmsave,                             null,                                            flags: Row.EndsBlock | Row.ProtectedOnly);
        t.Add(Code.Stgi,               &SvmInstructions.Stgi,                               null,                                            flags: Row.EndsBlock | Row.ProtectedOnly);
        t.Add(Code.Clgi,               &SvmInstructions.Clgi,                               null,                                            flags: Row.EndsBlock | Row.ProtectedOnly);
        t.Add(Code.Invlpgaw,           &SvmInstructions.Invlpga,                            null,                                            flags: Row.EndsBlock | Row.ProtectedOnly);
        t.Add(Code.Invlpgad,           &SvmInstructions.Invlpga,                            null,                                            flags: Row.EndsBlock | Row.ProtectedOnly);
        t.Add(Code.Invlpgaq,           &SvmInstructions.Invlpga,                            null,                                            flags: Row.EndsBlock | Row.ProtectedOnly);
        t.Add(Code.Rsm,                &ControlInstructions.Rsm,                            null);

        // Ports
        t.Add(Code.In_AL_imm8,         &PortInstructions.InImmediate<byte>,                 null,                                            flags: Row.EndsBlock);
        t.Add(Code.In_AL_DX,           &PortInstructions.InDx<byte>,                        null,                                            flags: Row.EndsBlock);
        t.Add(Code.Out_imm8_AL,        &PortInstructions.OutImmediate<byte>,                null,                                            flags: Row.EndsBlock);
        t.Add(Code.Out_DX_AL,          &PortInstructions.OutDx<byte>,                       null,                                            flags: Row.EndsBlock);
        t.Add(Code.In_AX_imm8,         &PortInstructions.InImmediate<ushort>,               null,                                            flags: Row.EndsBlock);
        t.Add(Code.In_AX_DX,           &PortInstructions.InDx<ushort>,                      null,                                            flags: Row.EndsBlock);
        t.Add(Code.Out_imm8_AX,        &PortInstructions.OutImmediate<ushort>,              null,                                            flags: Row.EndsBlock);
        t.Add(Code.Out_DX_AX,          &PortInstructions.OutDx<ushort>,                     null,                                            flags: Row.EndsBlock);
        t.Add(Code.In_EAX_imm8,        &PortInstructions.InImmediate<uint>,                 null,                                            flags: Row.EndsBlock);
        t.Add(Code.In_EAX_DX,          &PortInstructions.InDx<uint>,                        null,                                            flags: Row.EndsBlock);
        t.Add(Code.Out_imm8_EAX,       &PortInstructions.OutImmediate<uint>,                null,                                            flags: Row.EndsBlock);
        t.Add(Code.Out_DX_EAX,         &PortInstructions.OutDx<uint>,                       null,                                            flags: Row.EndsBlock);
        t.Add(Code.Insb_m8_DX,         null,                                                &PortInstructions.Ins<byte>,                     flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Outsb_DX_m8,        null,                                                &PortInstructions.Outs<byte>,                    flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Insw_m16_DX,        null,                                                &PortInstructions.Ins<ushort>,                   flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Outsw_DX_m16,       null,                                                &PortInstructions.Outs<ushort>,                  flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Insd_m32_DX,        null,                                                &PortInstructions.Ins<uint>,                     flags: Row.EndsBlock | Row.OwnSegmentation);
        t.Add(Code.Outsd_DX_m32,       null,                                                &PortInstructions.Outs<uint>,                    flags: Row.EndsBlock | Row.OwnSegmentation);
#pragma warning restore IDE0055
    }
}
