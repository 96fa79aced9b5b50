using Iced.Intel;

namespace Bunraku.Processor.X86;

internal static unsafe partial class InstructionTable
{
    private static partial void X87(Builder t)
    {
#pragma warning disable IDE0055 // one aligned row an instruction
        t.Add(Code.Wait,              &X87Control.Wait, flags: Row.Wait);
        t.Add(Code.Fninit,            &X87Control.Fninit, flags: Row.X87);
        t.Add(Code.Fnclex,            &X87Control.Fnclex, flags: Row.X87);
        t.Add(Code.Fneni,             &X87Control.Nothing, flags: Row.X87);
        t.Add(Code.Fndisi,            &X87Control.Nothing, flags: Row.X87);
        t.Add(Code.Fnsetpm,           &X87Control.Nothing, flags: Row.X87);
        t.Add(Code.Fnstsw_AX,         &X87Control.FnstswAx, flags: Row.X87);
        t.Add(Code.Fnstsw_m2byte,     null, &X87Control.Fnstsw, flags: Row.X87 | Row.Writes);
        t.Add(Code.Fnstcw_m2byte,     null, &X87Control.Fnstcw, flags: Row.X87 | Row.Writes);
        t.Add(Code.Fldcw_m2byte,      null, &X87Control.Fldcw, flags: Row.X87);
        t.Add(Code.Fnstenv_m14byte,   null, &X87Environment<ushort>.Fnstenv, flags: Row.X87 | Row.Writes);
        t.Add(Code.Fnstenv_m28byte,   null, &X87Environment<uint>.Fnstenv, flags: Row.X87 | Row.Writes);
        t.Add(Code.Fldenv_m14byte,    null, &X87Environment<ushort>.Fldenv, flags: Row.X87);
        t.Add(Code.Fldenv_m28byte,    null, &X87Environment<uint>.Fldenv, flags: Row.X87);
        t.Add(Code.Fnsave_m94byte,    null, &X87Environment<ushort>.Fnsave, flags: Row.X87 | Row.Writes);
        t.Add(Code.Fnsave_m108byte,   null, &X87Environment<uint>.Fnsave, flags: Row.X87 | Row.Writes);
        t.Add(Code.Frstor_m94byte,    null, &X87Environment<ushort>.Frstor, flags: Row.X87);
        t.Add(Code.Frstor_m108byte,   null, &X87Environment<uint>.Frstor, flags: Row.X87);
        t.Add(Code.Emms,              &X87Control.Emms, flags: Row.Mmx);
        t.Add(Code.Fxsave_m512byte,   null, &Xsave.Fxsave, flags: Row.Mmx | Row.Writes);
        t.Add(Code.Fxsave64_m512byte, null, &Xsave.Fxsave64, flags: Row.Mmx | Row.Writes);
        t.Add(Code.Fxrstor_m512byte,  null, &Xsave.Fxrstor, flags: Row.Mmx);
        t.Add(Code.Fxrstor64_m512byte, null, &Xsave.Fxrstor64, flags: Row.Mmx);
        t.Add(Code.Xsave_mem,         null, &Xsave.XsaveStandard, flags: Row.Writes);
        t.Add(Code.Xsave64_mem,       null, &Xsave.XsaveStandard64, flags: Row.Writes);
        t.Add(Code.Xsaveopt_mem,      null, &Xsave.Xsaveopt, flags: Row.Writes);
        t.Add(Code.Xsaveopt64_mem,    null, &Xsave.Xsaveopt64, flags: Row.Writes);
        t.Add(Code.Xsavec_mem,        null, &Xsave.Xsavec, flags: Row.Writes);
        t.Add(Code.Xsavec64_mem,      null, &Xsave.Xsavec64, flags: Row.Writes);
        t.Add(Code.Xsaves_mem,        null, &Xsave.Xsaves, flags: Row.Writes | Row.Cpl0);
        t.Add(Code.Xsaves64_mem,      null, &Xsave.Xsaves64, flags: Row.Writes | Row.Cpl0);
        t.Add(Code.Xrstor_mem,        null, &Xsave.Xrstor, flags: Row.EndsBlock);
        t.Add(Code.Xrstor64_mem,      null, &Xsave.Xrstor64, flags: Row.EndsBlock);
        t.Add(Code.Xrstors_mem,       null, &Xsave.Xrstors, flags: Row.EndsBlock | Row.Cpl0);
        t.Add(Code.Xrstors64_mem,     null, &Xsave.Xrstors64, flags: Row.EndsBlock | Row.Cpl0);
#pragma warning restore IDE0055

        // Everything that computes is executed by the host.
        foreach (Code code in Enum.GetValues<Code>())
        {
            if (!code.ToOpCode().IsInstruction || t.Contains(code)) continue;
            ThunkForm form = ThunkForm.Get(code);
            if (!form.IsX87 || form.IsControl) continue;
            t.Add(code,
                form.HasRegisterForm && form.MemorySize == 0 ? X87Handlers.Register(form) : null,
                form.MemorySize != 0 ? X87Handlers.Memory(form) : null,
                flags: Row.X87 | Row.Host | (form.IsStore ? Row.Writes : Row.None));
        }
    }
}
