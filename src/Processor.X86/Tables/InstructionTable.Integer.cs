using Iced.Intel;

namespace Bunraku.Processor.X86;

internal static unsafe partial class InstructionTable
{
    private static partial void Integer(Builder t)
    {
#pragma warning disable IDE0055 // one aligned row an instruction
        t.Add(Code.Add_rm32_r32, &Binary<AddOperation, uint>.RegReg, &Binary<AddOperation, uint>.MemReg);
        t.Add(Code.Add_r32_rm32, &Binary<AddOperation, uint>.RegReg, &Binary<AddOperation, uint>.RegMem);
#pragma warning restore IDE0055
    }
}
