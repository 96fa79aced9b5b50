using Iced.Intel;

namespace Bunraku.Processor.X86;

internal static unsafe partial class InstructionTable
{
    private static partial void Integer(Builder t)
    {
#pragma warning disable IDE0055 // one aligned row an instruction
        // ADD
        t.Add(Code.Add_rm8_r8,                &Binary<AddOperation, byte>.RegReg,   &Binary<AddOperation, byte>.MemReg,   &Binary<AddOperation, byte>.LockedReg, flags: Row.Modifies);
        t.Add(Code.Add_r8_rm8,                &Binary<AddOperation, byte>.RegReg,   &Binary<AddOperation, byte>.RegMem);
        t.Add(Code.Add_AL_imm8,               &Binary<AddOperation, byte>.RegImm);
        t.Add(Code.Add_rm8_imm8,              &Binary<AddOperation, byte>.RegImm,   &Binary<AddOperation, byte>.MemImm,   &Binary<AddOperation, byte>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Add_rm8_imm8_82,           &Binary<AddOperation, byte>.RegImm,   &Binary<AddOperation, byte>.MemImm,   &Binary<AddOperation, byte>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Add_rm16_r16,              &Binary<AddOperation, ushort>.RegReg, &Binary<AddOperation, ushort>.MemReg, &Binary<AddOperation, ushort>.LockedReg, flags: Row.Modifies);
        t.Add(Code.Add_r16_rm16,              &Binary<AddOperation, ushort>.RegReg, &Binary<AddOperation, ushort>.RegMem);
        t.Add(Code.Add_AX_imm16,              &Binary<AddOperation, ushort>.RegImm);
        t.Add(Code.Add_rm16_imm16,            &Binary<AddOperation, ushort>.RegImm, &Binary<AddOperation, ushort>.MemImm, &Binary<AddOperation, ushort>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Add_rm16_imm8,             &Binary<AddOperation, ushort>.RegImm, &Binary<AddOperation, ushort>.MemImm, &Binary<AddOperation, ushort>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Add_rm32_r32,              &Binary<AddOperation, uint>.RegReg,   &Binary<AddOperation, uint>.MemReg,   &Binary<AddOperation, uint>.LockedReg, flags: Row.Modifies);
        t.Add(Code.Add_r32_rm32,              &Binary<AddOperation, uint>.RegReg,   &Binary<AddOperation, uint>.RegMem);
        t.Add(Code.Add_EAX_imm32,             &Binary<AddOperation, uint>.RegImm);
        t.Add(Code.Add_rm32_imm32,            &Binary<AddOperation, uint>.RegImm,   &Binary<AddOperation, uint>.MemImm,   &Binary<AddOperation, uint>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Add_rm32_imm8,             &Binary<AddOperation, uint>.RegImm,   &Binary<AddOperation, uint>.MemImm,   &Binary<AddOperation, uint>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Add_rm64_r64,              &Binary<AddOperation, ulong>.RegReg,  &Binary<AddOperation, ulong>.MemReg,  &Binary<AddOperation, ulong>.LockedReg, flags: Row.Modifies);
        t.Add(Code.Add_r64_rm64,              &Binary<AddOperation, ulong>.RegReg,  &Binary<AddOperation, ulong>.RegMem);
        t.Add(Code.Add_RAX_imm32,             &Binary<AddOperation, ulong>.RegImm);
        t.Add(Code.Add_rm64_imm32,            &Binary<AddOperation, ulong>.RegImm,  &Binary<AddOperation, ulong>.MemImm,  &Binary<AddOperation, ulong>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Add_rm64_imm8,             &Binary<AddOperation, ulong>.RegImm,  &Binary<AddOperation, ulong>.MemImm,  &Binary<AddOperation, ulong>.LockedImm, flags: Row.Modifies);

        // OR
        t.Add(Code.Or_rm8_r8,                 &Binary<OrOperation, byte>.RegReg,   &Binary<OrOperation, byte>.MemReg,   &Binary<OrOperation, byte>.LockedReg, flags: Row.Modifies);
        t.Add(Code.Or_r8_rm8,                 &Binary<OrOperation, byte>.RegReg,   &Binary<OrOperation, byte>.RegMem);
        t.Add(Code.Or_AL_imm8,                &Binary<OrOperation, byte>.RegImm);
        t.Add(Code.Or_rm8_imm8,               &Binary<OrOperation, byte>.RegImm,   &Binary<OrOperation, byte>.MemImm,   &Binary<OrOperation, byte>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Or_rm8_imm8_82,            &Binary<OrOperation, byte>.RegImm,   &Binary<OrOperation, byte>.MemImm,   &Binary<OrOperation, byte>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Or_rm16_r16,               &Binary<OrOperation, ushort>.RegReg, &Binary<OrOperation, ushort>.MemReg, &Binary<OrOperation, ushort>.LockedReg, flags: Row.Modifies);
        t.Add(Code.Or_r16_rm16,               &Binary<OrOperation, ushort>.RegReg, &Binary<OrOperation, ushort>.RegMem);
        t.Add(Code.Or_AX_imm16,               &Binary<OrOperation, ushort>.RegImm);
        t.Add(Code.Or_rm16_imm16,             &Binary<OrOperation, ushort>.RegImm, &Binary<OrOperation, ushort>.MemImm, &Binary<OrOperation, ushort>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Or_rm16_imm8,              &Binary<OrOperation, ushort>.RegImm, &Binary<OrOperation, ushort>.MemImm, &Binary<OrOperation, ushort>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Or_rm32_r32,               &Binary<OrOperation, uint>.RegReg,   &Binary<OrOperation, uint>.MemReg,   &Binary<OrOperation, uint>.LockedReg, flags: Row.Modifies);
        t.Add(Code.Or_r32_rm32,               &Binary<OrOperation, uint>.RegReg,   &Binary<OrOperation, uint>.RegMem);
        t.Add(Code.Or_EAX_imm32,              &Binary<OrOperation, uint>.RegImm);
        t.Add(Code.Or_rm32_imm32,             &Binary<OrOperation, uint>.RegImm,   &Binary<OrOperation, uint>.MemImm,   &Binary<OrOperation, uint>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Or_rm32_imm8,              &Binary<OrOperation, uint>.RegImm,   &Binary<OrOperation, uint>.MemImm,   &Binary<OrOperation, uint>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Or_rm64_r64,               &Binary<OrOperation, ulong>.RegReg,  &Binary<OrOperation, ulong>.MemReg,  &Binary<OrOperation, ulong>.LockedReg, flags: Row.Modifies);
        t.Add(Code.Or_r64_rm64,               &Binary<OrOperation, ulong>.RegReg,  &Binary<OrOperation, ulong>.RegMem);
        t.Add(Code.Or_RAX_imm32,              &Binary<OrOperation, ulong>.RegImm);
        t.Add(Code.Or_rm64_imm32,             &Binary<OrOperation, ulong>.RegImm,  &Binary<OrOperation, ulong>.MemImm,  &Binary<OrOperation, ulong>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Or_rm64_imm8,              &Binary<OrOperation, ulong>.RegImm,  &Binary<OrOperation, ulong>.MemImm,  &Binary<OrOperation, ulong>.LockedImm, flags: Row.Modifies);

        // ADC
        t.Add(Code.Adc_rm8_r8,                &Binary<AdcOperation, byte>.RegReg,   &Binary<AdcOperation, byte>.MemReg,   &Binary<AdcOperation, byte>.LockedReg, flags: Row.Modifies);
        t.Add(Code.Adc_r8_rm8,                &Binary<AdcOperation, byte>.RegReg,   &Binary<AdcOperation, byte>.RegMem);
        t.Add(Code.Adc_AL_imm8,               &Binary<AdcOperation, byte>.RegImm);
        t.Add(Code.Adc_rm8_imm8,              &Binary<AdcOperation, byte>.RegImm,   &Binary<AdcOperation, byte>.MemImm,   &Binary<AdcOperation, byte>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Adc_rm8_imm8_82,           &Binary<AdcOperation, byte>.RegImm,   &Binary<AdcOperation, byte>.MemImm,   &Binary<AdcOperation, byte>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Adc_rm16_r16,              &Binary<AdcOperation, ushort>.RegReg, &Binary<AdcOperation, ushort>.MemReg, &Binary<AdcOperation, ushort>.LockedReg, flags: Row.Modifies);
        t.Add(Code.Adc_r16_rm16,              &Binary<AdcOperation, ushort>.RegReg, &Binary<AdcOperation, ushort>.RegMem);
        t.Add(Code.Adc_AX_imm16,              &Binary<AdcOperation, ushort>.RegImm);
        t.Add(Code.Adc_rm16_imm16,            &Binary<AdcOperation, ushort>.RegImm, &Binary<AdcOperation, ushort>.MemImm, &Binary<AdcOperation, ushort>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Adc_rm16_imm8,             &Binary<AdcOperation, ushort>.RegImm, &Binary<AdcOperation, ushort>.MemImm, &Binary<AdcOperation, ushort>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Adc_rm32_r32,              &Binary<AdcOperation, uint>.RegReg,   &Binary<AdcOperation, uint>.MemReg,   &Binary<AdcOperation, uint>.LockedReg, flags: Row.Modifies);
        t.Add(Code.Adc_r32_rm32,              &Binary<AdcOperation, uint>.RegReg,   &Binary<AdcOperation, uint>.RegMem);
        t.Add(Code.Adc_EAX_imm32,             &Binary<AdcOperation, uint>.RegImm);
        t.Add(Code.Adc_rm32_imm32,            &Binary<AdcOperation, uint>.RegImm,   &Binary<AdcOperation, uint>.MemImm,   &Binary<AdcOperation, uint>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Adc_rm32_imm8,             &Binary<AdcOperation, uint>.RegImm,   &Binary<AdcOperation, uint>.MemImm,   &Binary<AdcOperation, uint>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Adc_rm64_r64,              &Binary<AdcOperation, ulong>.RegReg,  &Binary<AdcOperation, ulong>.MemReg,  &Binary<AdcOperation, ulong>.LockedReg, flags: Row.Modifies);
        t.Add(Code.Adc_r64_rm64,              &Binary<AdcOperation, ulong>.RegReg,  &Binary<AdcOperation, ulong>.RegMem);
        t.Add(Code.Adc_RAX_imm32,             &Binary<AdcOperation, ulong>.RegImm);
        t.Add(Code.Adc_rm64_imm32,            &Binary<AdcOperation, ulong>.RegImm,  &Binary<AdcOperation, ulong>.MemImm,  &Binary<AdcOperation, ulong>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Adc_rm64_imm8,             &Binary<AdcOperation, ulong>.RegImm,  &Binary<AdcOperation, ulong>.MemImm,  &Binary<AdcOperation, ulong>.LockedImm, flags: Row.Modifies);

        // SBB
        t.Add(Code.Sbb_rm8_r8,                &Binary<SbbOperation, byte>.RegReg,   &Binary<SbbOperation, byte>.MemReg,   &Binary<SbbOperation, byte>.LockedReg, flags: Row.Modifies);
        t.Add(Code.Sbb_r8_rm8,                &Binary<SbbOperation, byte>.RegReg,   &Binary<SbbOperation, byte>.RegMem);
        t.Add(Code.Sbb_AL_imm8,               &Binary<SbbOperation, byte>.RegImm);
        t.Add(Code.Sbb_rm8_imm8,              &Binary<SbbOperation, byte>.RegImm,   &Binary<SbbOperation, byte>.MemImm,   &Binary<SbbOperation, byte>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Sbb_rm8_imm8_82,           &Binary<SbbOperation, byte>.RegImm,   &Binary<SbbOperation, byte>.MemImm,   &Binary<SbbOperation, byte>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Sbb_rm16_r16,              &Binary<SbbOperation, ushort>.RegReg, &Binary<SbbOperation, ushort>.MemReg, &Binary<SbbOperation, ushort>.LockedReg, flags: Row.Modifies);
        t.Add(Code.Sbb_r16_rm16,              &Binary<SbbOperation, ushort>.RegReg, &Binary<SbbOperation, ushort>.RegMem);
        t.Add(Code.Sbb_AX_imm16,              &Binary<SbbOperation, ushort>.RegImm);
        t.Add(Code.Sbb_rm16_imm16,            &Binary<SbbOperation, ushort>.RegImm, &Binary<SbbOperation, ushort>.MemImm, &Binary<SbbOperation, ushort>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Sbb_rm16_imm8,             &Binary<SbbOperation, ushort>.RegImm, &Binary<SbbOperation, ushort>.MemImm, &Binary<SbbOperation, ushort>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Sbb_rm32_r32,              &Binary<SbbOperation, uint>.RegReg,   &Binary<SbbOperation, uint>.MemReg,   &Binary<SbbOperation, uint>.LockedReg, flags: Row.Modifies);
        t.Add(Code.Sbb_r32_rm32,              &Binary<SbbOperation, uint>.RegReg,   &Binary<SbbOperation, uint>.RegMem);
        t.Add(Code.Sbb_EAX_imm32,             &Binary<SbbOperation, uint>.RegImm);
        t.Add(Code.Sbb_rm32_imm32,            &Binary<SbbOperation, uint>.RegImm,   &Binary<SbbOperation, uint>.MemImm,   &Binary<SbbOperation, uint>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Sbb_rm32_imm8,             &Binary<SbbOperation, uint>.RegImm,   &Binary<SbbOperation, uint>.MemImm,   &Binary<SbbOperation, uint>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Sbb_rm64_r64,              &Binary<SbbOperation, ulong>.RegReg,  &Binary<SbbOperation, ulong>.MemReg,  &Binary<SbbOperation, ulong>.LockedReg, flags: Row.Modifies);
        t.Add(Code.Sbb_r64_rm64,              &Binary<SbbOperation, ulong>.RegReg,  &Binary<SbbOperation, ulong>.RegMem);
        t.Add(Code.Sbb_RAX_imm32,             &Binary<SbbOperation, ulong>.RegImm);
        t.Add(Code.Sbb_rm64_imm32,            &Binary<SbbOperation, ulong>.RegImm,  &Binary<SbbOperation, ulong>.MemImm,  &Binary<SbbOperation, ulong>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Sbb_rm64_imm8,             &Binary<SbbOperation, ulong>.RegImm,  &Binary<SbbOperation, ulong>.MemImm,  &Binary<SbbOperation, ulong>.LockedImm, flags: Row.Modifies);

        // AND
        t.Add(Code.And_rm8_r8,                &Binary<AndOperation, byte>.RegReg,   &Binary<AndOperation, byte>.MemReg,   &Binary<AndOperation, byte>.LockedReg, flags: Row.Modifies);
        t.Add(Code.And_r8_rm8,                &Binary<AndOperation, byte>.RegReg,   &Binary<AndOperation, byte>.RegMem);
        t.Add(Code.And_AL_imm8,               &Binary<AndOperation, byte>.RegImm);
        t.Add(Code.And_rm8_imm8,              &Binary<AndOperation, byte>.RegImm,   &Binary<AndOperation, byte>.MemImm,   &Binary<AndOperation, byte>.LockedImm, flags: Row.Modifies);
        t.Add(Code.And_rm8_imm8_82,           &Binary<AndOperation, byte>.RegImm,   &Binary<AndOperation, byte>.MemImm,   &Binary<AndOperation, byte>.LockedImm, flags: Row.Modifies);
        t.Add(Code.And_rm16_r16,              &Binary<AndOperation, ushort>.RegReg, &Binary<AndOperation, ushort>.MemReg, &Binary<AndOperation, ushort>.LockedReg, flags: Row.Modifies);
        t.Add(Code.And_r16_rm16,              &Binary<AndOperation, ushort>.RegReg, &Binary<AndOperation, ushort>.RegMem);
        t.Add(Code.And_AX_imm16,              &Binary<AndOperation, ushort>.RegImm);
        t.Add(Code.And_rm16_imm16,            &Binary<AndOperation, ushort>.RegImm, &Binary<AndOperation, ushort>.MemImm, &Binary<AndOperation, ushort>.LockedImm, flags: Row.Modifies);
        t.Add(Code.And_rm16_imm8,             &Binary<AndOperation, ushort>.RegImm, &Binary<AndOperation, ushort>.MemImm, &Binary<AndOperation, ushort>.LockedImm, flags: Row.Modifies);
        t.Add(Code.And_rm32_r32,              &Binary<AndOperation, uint>.RegReg,   &Binary<AndOperation, uint>.MemReg,   &Binary<AndOperation, uint>.LockedReg, flags: Row.Modifies);
        t.Add(Code.And_r32_rm32,              &Binary<AndOperation, uint>.RegReg,   &Binary<AndOperation, uint>.RegMem);
        t.Add(Code.And_EAX_imm32,             &Binary<AndOperation, uint>.RegImm);
        t.Add(Code.And_rm32_imm32,            &Binary<AndOperation, uint>.RegImm,   &Binary<AndOperation, uint>.MemImm,   &Binary<AndOperation, uint>.LockedImm, flags: Row.Modifies);
        t.Add(Code.And_rm32_imm8,             &Binary<AndOperation, uint>.RegImm,   &Binary<AndOperation, uint>.MemImm,   &Binary<AndOperation, uint>.LockedImm, flags: Row.Modifies);
        t.Add(Code.And_rm64_r64,              &Binary<AndOperation, ulong>.RegReg,  &Binary<AndOperation, ulong>.MemReg,  &Binary<AndOperation, ulong>.LockedReg, flags: Row.Modifies);
        t.Add(Code.And_r64_rm64,              &Binary<AndOperation, ulong>.RegReg,  &Binary<AndOperation, ulong>.RegMem);
        t.Add(Code.And_RAX_imm32,             &Binary<AndOperation, ulong>.RegImm);
        t.Add(Code.And_rm64_imm32,            &Binary<AndOperation, ulong>.RegImm,  &Binary<AndOperation, ulong>.MemImm,  &Binary<AndOperation, ulong>.LockedImm, flags: Row.Modifies);
        t.Add(Code.And_rm64_imm8,             &Binary<AndOperation, ulong>.RegImm,  &Binary<AndOperation, ulong>.MemImm,  &Binary<AndOperation, ulong>.LockedImm, flags: Row.Modifies);

        // SUB
        t.Add(Code.Sub_rm8_r8,                &Binary<SubOperation, byte>.RegReg,   &Binary<SubOperation, byte>.MemReg,   &Binary<SubOperation, byte>.LockedReg, flags: Row.Modifies);
        t.Add(Code.Sub_r8_rm8,                &Binary<SubOperation, byte>.RegReg,   &Binary<SubOperation, byte>.RegMem);
        t.Add(Code.Sub_AL_imm8,               &Binary<SubOperation, byte>.RegImm);
        t.Add(Code.Sub_rm8_imm8,              &Binary<SubOperation, byte>.RegImm,   &Binary<SubOperation, byte>.MemImm,   &Binary<SubOperation, byte>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Sub_rm8_imm8_82,           &Binary<SubOperation, byte>.RegImm,   &Binary<SubOperation, byte>.MemImm,   &Binary<SubOperation, byte>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Sub_rm16_r16,              &Binary<SubOperation, ushort>.RegReg, &Binary<SubOperation, ushort>.MemReg, &Binary<SubOperation, ushort>.LockedReg, flags: Row.Modifies);
        t.Add(Code.Sub_r16_rm16,              &Binary<SubOperation, ushort>.RegReg, &Binary<SubOperation, ushort>.RegMem);
        t.Add(Code.Sub_AX_imm16,              &Binary<SubOperation, ushort>.RegImm);
        t.Add(Code.Sub_rm16_imm16,            &Binary<SubOperation, ushort>.RegImm, &Binary<SubOperation, ushort>.MemImm, &Binary<SubOperation, ushort>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Sub_rm16_imm8,             &Binary<SubOperation, ushort>.RegImm, &Binary<SubOperation, ushort>.MemImm, &Binary<SubOperation, ushort>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Sub_rm32_r32,              &Binary<SubOperation, uint>.RegReg,   &Binary<SubOperation, uint>.MemReg,   &Binary<SubOperation, uint>.LockedReg, flags: Row.Modifies);
        t.Add(Code.Sub_r32_rm32,              &Binary<SubOperation, uint>.RegReg,   &Binary<SubOperation, uint>.RegMem);
        t.Add(Code.Sub_EAX_imm32,             &Binary<SubOperation, uint>.RegImm);
        t.Add(Code.Sub_rm32_imm32,            &Binary<SubOperation, uint>.RegImm,   &Binary<SubOperation, uint>.MemImm,   &Binary<SubOperation, uint>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Sub_rm32_imm8,             &Binary<SubOperation, uint>.RegImm,   &Binary<SubOperation, uint>.MemImm,   &Binary<SubOperation, uint>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Sub_rm64_r64,              &Binary<SubOperation, ulong>.RegReg,  &Binary<SubOperation, ulong>.MemReg,  &Binary<SubOperation, ulong>.LockedReg, flags: Row.Modifies);
        t.Add(Code.Sub_r64_rm64,              &Binary<SubOperation, ulong>.RegReg,  &Binary<SubOperation, ulong>.RegMem);
        t.Add(Code.Sub_RAX_imm32,             &Binary<SubOperation, ulong>.RegImm);
        t.Add(Code.Sub_rm64_imm32,            &Binary<SubOperation, ulong>.RegImm,  &Binary<SubOperation, ulong>.MemImm,  &Binary<SubOperation, ulong>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Sub_rm64_imm8,             &Binary<SubOperation, ulong>.RegImm,  &Binary<SubOperation, ulong>.MemImm,  &Binary<SubOperation, ulong>.LockedImm, flags: Row.Modifies);

        // XOR
        t.Add(Code.Xor_rm8_r8,                &Binary<XorOperation, byte>.RegReg,   &Binary<XorOperation, byte>.MemReg,   &Binary<XorOperation, byte>.LockedReg, flags: Row.Modifies);
        t.Add(Code.Xor_r8_rm8,                &Binary<XorOperation, byte>.RegReg,   &Binary<XorOperation, byte>.RegMem);
        t.Add(Code.Xor_AL_imm8,               &Binary<XorOperation, byte>.RegImm);
        t.Add(Code.Xor_rm8_imm8,              &Binary<XorOperation, byte>.RegImm,   &Binary<XorOperation, byte>.MemImm,   &Binary<XorOperation, byte>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Xor_rm8_imm8_82,           &Binary<XorOperation, byte>.RegImm,   &Binary<XorOperation, byte>.MemImm,   &Binary<XorOperation, byte>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Xor_rm16_r16,              &Binary<XorOperation, ushort>.RegReg, &Binary<XorOperation, ushort>.MemReg, &Binary<XorOperation, ushort>.LockedReg, flags: Row.Modifies);
        t.Add(Code.Xor_r16_rm16,              &Binary<XorOperation, ushort>.RegReg, &Binary<XorOperation, ushort>.RegMem);
        t.Add(Code.Xor_AX_imm16,              &Binary<XorOperation, ushort>.RegImm);
        t.Add(Code.Xor_rm16_imm16,            &Binary<XorOperation, ushort>.RegImm, &Binary<XorOperation, ushort>.MemImm, &Binary<XorOperation, ushort>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Xor_rm16_imm8,             &Binary<XorOperation, ushort>.RegImm, &Binary<XorOperation, ushort>.MemImm, &Binary<XorOperation, ushort>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Xor_rm32_r32,              &Binary<XorOperation, uint>.RegReg,   &Binary<XorOperation, uint>.MemReg,   &Binary<XorOperation, uint>.LockedReg, flags: Row.Modifies);
        t.Add(Code.Xor_r32_rm32,              &Binary<XorOperation, uint>.RegReg,   &Binary<XorOperation, uint>.RegMem);
        t.Add(Code.Xor_EAX_imm32,             &Binary<XorOperation, uint>.RegImm);
        t.Add(Code.Xor_rm32_imm32,            &Binary<XorOperation, uint>.RegImm,   &Binary<XorOperation, uint>.MemImm,   &Binary<XorOperation, uint>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Xor_rm32_imm8,             &Binary<XorOperation, uint>.RegImm,   &Binary<XorOperation, uint>.MemImm,   &Binary<XorOperation, uint>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Xor_rm64_r64,              &Binary<XorOperation, ulong>.RegReg,  &Binary<XorOperation, ulong>.MemReg,  &Binary<XorOperation, ulong>.LockedReg, flags: Row.Modifies);
        t.Add(Code.Xor_r64_rm64,              &Binary<XorOperation, ulong>.RegReg,  &Binary<XorOperation, ulong>.RegMem);
        t.Add(Code.Xor_RAX_imm32,             &Binary<XorOperation, ulong>.RegImm);
        t.Add(Code.Xor_rm64_imm32,            &Binary<XorOperation, ulong>.RegImm,  &Binary<XorOperation, ulong>.MemImm,  &Binary<XorOperation, ulong>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Xor_rm64_imm8,             &Binary<XorOperation, ulong>.RegImm,  &Binary<XorOperation, ulong>.MemImm,  &Binary<XorOperation, ulong>.LockedImm, flags: Row.Modifies);

        // CMP
        t.Add(Code.Cmp_rm8_r8,                &Compare<SubOperation, byte>.RegReg,   &Compare<SubOperation, byte>.MemReg);
        t.Add(Code.Cmp_r8_rm8,                &Compare<SubOperation, byte>.RegReg,   &Compare<SubOperation, byte>.RegMem);
        t.Add(Code.Cmp_AL_imm8,               &Compare<SubOperation, byte>.RegImm);
        t.Add(Code.Cmp_rm8_imm8,              &Compare<SubOperation, byte>.RegImm,   &Compare<SubOperation, byte>.MemImm);
        t.Add(Code.Cmp_rm8_imm8_82,           &Compare<SubOperation, byte>.RegImm,   &Compare<SubOperation, byte>.MemImm);
        t.Add(Code.Cmp_rm16_r16,              &Compare<SubOperation, ushort>.RegReg, &Compare<SubOperation, ushort>.MemReg);
        t.Add(Code.Cmp_r16_rm16,              &Compare<SubOperation, ushort>.RegReg, &Compare<SubOperation, ushort>.RegMem);
        t.Add(Code.Cmp_AX_imm16,              &Compare<SubOperation, ushort>.RegImm);
        t.Add(Code.Cmp_rm16_imm16,            &Compare<SubOperation, ushort>.RegImm, &Compare<SubOperation, ushort>.MemImm);
        t.Add(Code.Cmp_rm16_imm8,             &Compare<SubOperation, ushort>.RegImm, &Compare<SubOperation, ushort>.MemImm);
        t.Add(Code.Cmp_rm32_r32,              &Compare<SubOperation, uint>.RegReg,   &Compare<SubOperation, uint>.MemReg);
        t.Add(Code.Cmp_r32_rm32,              &Compare<SubOperation, uint>.RegReg,   &Compare<SubOperation, uint>.RegMem);
        t.Add(Code.Cmp_EAX_imm32,             &Compare<SubOperation, uint>.RegImm);
        t.Add(Code.Cmp_rm32_imm32,            &Compare<SubOperation, uint>.RegImm,   &Compare<SubOperation, uint>.MemImm);
        t.Add(Code.Cmp_rm32_imm8,             &Compare<SubOperation, uint>.RegImm,   &Compare<SubOperation, uint>.MemImm);
        t.Add(Code.Cmp_rm64_r64,              &Compare<SubOperation, ulong>.RegReg,  &Compare<SubOperation, ulong>.MemReg);
        t.Add(Code.Cmp_r64_rm64,              &Compare<SubOperation, ulong>.RegReg,  &Compare<SubOperation, ulong>.RegMem);
        t.Add(Code.Cmp_RAX_imm32,             &Compare<SubOperation, ulong>.RegImm);
        t.Add(Code.Cmp_rm64_imm32,            &Compare<SubOperation, ulong>.RegImm,  &Compare<SubOperation, ulong>.MemImm);
        t.Add(Code.Cmp_rm64_imm8,             &Compare<SubOperation, ulong>.RegImm,  &Compare<SubOperation, ulong>.MemImm);

        // TEST
        t.Add(Code.Test_rm8_r8,               &Compare<AndOperation, byte>.RegReg,   &Compare<AndOperation, byte>.MemReg);
        t.Add(Code.Test_AL_imm8,              &Compare<AndOperation, byte>.RegImm);
        t.Add(Code.Test_rm8_imm8,             &Compare<AndOperation, byte>.RegImm,   &Compare<AndOperation, byte>.MemImm);
        t.Add(Code.Test_rm8_imm8_F6r1,        &Compare<AndOperation, byte>.RegImm,   &Compare<AndOperation, byte>.MemImm);
        t.Add(Code.Test_rm16_r16,             &Compare<AndOperation, ushort>.RegReg, &Compare<AndOperation, ushort>.MemReg);
        t.Add(Code.Test_AX_imm16,             &Compare<AndOperation, ushort>.RegImm);
        t.Add(Code.Test_rm16_imm16,           &Compare<AndOperation, ushort>.RegImm, &Compare<AndOperation, ushort>.MemImm);
        t.Add(Code.Test_rm16_imm16_F7r1,      &Compare<AndOperation, ushort>.RegImm, &Compare<AndOperation, ushort>.MemImm);
        t.Add(Code.Test_rm32_r32,             &Compare<AndOperation, uint>.RegReg,   &Compare<AndOperation, uint>.MemReg);
        t.Add(Code.Test_EAX_imm32,            &Compare<AndOperation, uint>.RegImm);
        t.Add(Code.Test_rm32_imm32,           &Compare<AndOperation, uint>.RegImm,   &Compare<AndOperation, uint>.MemImm);
        t.Add(Code.Test_rm32_imm32_F7r1,      &Compare<AndOperation, uint>.RegImm,   &Compare<AndOperation, uint>.MemImm);
        t.Add(Code.Test_rm64_r64,             &Compare<AndOperation, ulong>.RegReg,  &Compare<AndOperation, ulong>.MemReg);
        t.Add(Code.Test_RAX_imm32,            &Compare<AndOperation, ulong>.RegImm);
        t.Add(Code.Test_rm64_imm32,           &Compare<AndOperation, ulong>.RegImm,  &Compare<AndOperation, ulong>.MemImm);
        t.Add(Code.Test_rm64_imm32_F7r1,      &Compare<AndOperation, ulong>.RegImm,  &Compare<AndOperation, ulong>.MemImm);

        // INC, DEC, NEG, NOT
        t.Add(Code.Inc_rm8,                   &Unary<IncOperation, byte>.Reg,   &Unary<IncOperation, byte>.Mem,   &Unary<IncOperation, byte>.Locked, flags: Row.Modifies);
        t.Add(Code.Inc_rm16,                  &Unary<IncOperation, ushort>.Reg, &Unary<IncOperation, ushort>.Mem, &Unary<IncOperation, ushort>.Locked, flags: Row.Modifies);
        t.Add(Code.Inc_rm32,                  &Unary<IncOperation, uint>.Reg,   &Unary<IncOperation, uint>.Mem,   &Unary<IncOperation, uint>.Locked, flags: Row.Modifies);
        t.Add(Code.Inc_rm64,                  &Unary<IncOperation, ulong>.Reg,  &Unary<IncOperation, ulong>.Mem,  &Unary<IncOperation, ulong>.Locked, flags: Row.Modifies);
        t.Add(Code.Inc_r16,                   &Unary<IncOperation, ushort>.Reg);
        t.Add(Code.Inc_r32,                   &Unary<IncOperation, uint>.Reg);
        t.Add(Code.Dec_rm8,                   &Unary<DecOperation, byte>.Reg,   &Unary<DecOperation, byte>.Mem,   &Unary<DecOperation, byte>.Locked, flags: Row.Modifies);
        t.Add(Code.Dec_rm16,                  &Unary<DecOperation, ushort>.Reg, &Unary<DecOperation, ushort>.Mem, &Unary<DecOperation, ushort>.Locked, flags: Row.Modifies);
        t.Add(Code.Dec_rm32,                  &Unary<DecOperation, uint>.Reg,   &Unary<DecOperation, uint>.Mem,   &Unary<DecOperation, uint>.Locked, flags: Row.Modifies);
        t.Add(Code.Dec_rm64,                  &Unary<DecOperation, ulong>.Reg,  &Unary<DecOperation, ulong>.Mem,  &Unary<DecOperation, ulong>.Locked, flags: Row.Modifies);
        t.Add(Code.Dec_r16,                   &Unary<DecOperation, ushort>.Reg);
        t.Add(Code.Dec_r32,                   &Unary<DecOperation, uint>.Reg);
        t.Add(Code.Neg_rm8,                   &Unary<NegOperation, byte>.Reg,   &Unary<NegOperation, byte>.Mem,   &Unary<NegOperation, byte>.Locked, flags: Row.Modifies);
        t.Add(Code.Neg_rm16,                  &Unary<NegOperation, ushort>.Reg, &Unary<NegOperation, ushort>.Mem, &Unary<NegOperation, ushort>.Locked, flags: Row.Modifies);
        t.Add(Code.Neg_rm32,                  &Unary<NegOperation, uint>.Reg,   &Unary<NegOperation, uint>.Mem,   &Unary<NegOperation, uint>.Locked, flags: Row.Modifies);
        t.Add(Code.Neg_rm64,                  &Unary<NegOperation, ulong>.Reg,  &Unary<NegOperation, ulong>.Mem,  &Unary<NegOperation, ulong>.Locked, flags: Row.Modifies);
        t.Add(Code.Not_rm8,                   &Unary<NotOperation, byte>.Reg,   &Unary<NotOperation, byte>.Mem,   &Unary<NotOperation, byte>.Locked, flags: Row.Modifies);
        t.Add(Code.Not_rm16,                  &Unary<NotOperation, ushort>.Reg, &Unary<NotOperation, ushort>.Mem, &Unary<NotOperation, ushort>.Locked, flags: Row.Modifies);
        t.Add(Code.Not_rm32,                  &Unary<NotOperation, uint>.Reg,   &Unary<NotOperation, uint>.Mem,   &Unary<NotOperation, uint>.Locked, flags: Row.Modifies);
        t.Add(Code.Not_rm64,                  &Unary<NotOperation, ulong>.Reg,  &Unary<NotOperation, ulong>.Mem,  &Unary<NotOperation, ulong>.Locked, flags: Row.Modifies);

        // MUL, IMUL, DIV, IDIV
        t.Add(Code.Mul_rm8,                   &Multiply<byte>.MulReg,          &Multiply<byte>.MulMem);
        t.Add(Code.Mul_rm16,                  &Multiply<ushort>.MulReg,        &Multiply<ushort>.MulMem);
        t.Add(Code.Mul_rm32,                  &Multiply<uint>.MulReg,          &Multiply<uint>.MulMem);
        t.Add(Code.Mul_rm64,                  &Multiply<ulong>.MulReg,         &Multiply<ulong>.MulMem);
        t.Add(Code.Imul_rm8,                  &Multiply<byte>.ImulReg,         &Multiply<byte>.ImulMem);
        t.Add(Code.Imul_rm16,                 &Multiply<ushort>.ImulReg,       &Multiply<ushort>.ImulMem);
        t.Add(Code.Imul_rm32,                 &Multiply<uint>.ImulReg,         &Multiply<uint>.ImulMem);
        t.Add(Code.Imul_rm64,                 &Multiply<ulong>.ImulReg,        &Multiply<ulong>.ImulMem);
        t.Add(Code.Div_rm8,                   &Multiply<byte>.DivReg,          &Multiply<byte>.DivMem);
        t.Add(Code.Div_rm16,                  &Multiply<ushort>.DivReg,        &Multiply<ushort>.DivMem);
        t.Add(Code.Div_rm32,                  &Multiply<uint>.DivReg,          &Multiply<uint>.DivMem);
        t.Add(Code.Div_rm64,                  &Multiply<ulong>.DivReg,         &Multiply<ulong>.DivMem);
        t.Add(Code.Idiv_rm8,                  &Multiply<byte>.IdivReg,         &Multiply<byte>.IdivMem);
        t.Add(Code.Idiv_rm16,                 &Multiply<ushort>.IdivReg,       &Multiply<ushort>.IdivMem);
        t.Add(Code.Idiv_rm32,                 &Multiply<uint>.IdivReg,         &Multiply<uint>.IdivMem);
        t.Add(Code.Idiv_rm64,                 &Multiply<ulong>.IdivReg,        &Multiply<ulong>.IdivMem);
        t.Add(Code.Imul_r16_rm16,             &Multiply<ushort>.ImulRegReg,    &Multiply<ushort>.ImulRegMem);
        t.Add(Code.Imul_r16_rm16_imm16,       &Multiply<ushort>.ImulRegRegImm, &Multiply<ushort>.ImulRegMemImm);
        t.Add(Code.Imul_r16_rm16_imm8,        &Multiply<ushort>.ImulRegRegImm, &Multiply<ushort>.ImulRegMemImm);
        t.Add(Code.Imul_r32_rm32,             &Multiply<uint>.ImulRegReg,      &Multiply<uint>.ImulRegMem);
        t.Add(Code.Imul_r32_rm32_imm32,       &Multiply<uint>.ImulRegRegImm,   &Multiply<uint>.ImulRegMemImm);
        t.Add(Code.Imul_r32_rm32_imm8,        &Multiply<uint>.ImulRegRegImm,   &Multiply<uint>.ImulRegMemImm);
        t.Add(Code.Imul_r64_rm64,             &Multiply<ulong>.ImulRegReg,     &Multiply<ulong>.ImulRegMem);
        t.Add(Code.Imul_r64_rm64_imm32,       &Multiply<ulong>.ImulRegRegImm,  &Multiply<ulong>.ImulRegMemImm);
        t.Add(Code.Imul_r64_rm64_imm8,        &Multiply<ulong>.ImulRegRegImm,  &Multiply<ulong>.ImulRegMemImm);

        // ROL
        t.Add(Code.Rol_rm8_imm8,              &Shift<RolOperation, byte>.RegImm,   &Shift<RolOperation, byte>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Rol_rm8_1,                 &Shift<RolOperation, byte>.RegImm,   &Shift<RolOperation, byte>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Rol_rm8_CL,                &Shift<RolOperation, byte>.RegCl,    &Shift<RolOperation, byte>.MemCl,    flags: Row.Modifies);
        t.Add(Code.Rol_rm16_imm8,             &Shift<RolOperation, ushort>.RegImm, &Shift<RolOperation, ushort>.MemImm, flags: Row.Modifies);
        t.Add(Code.Rol_rm16_1,                &Shift<RolOperation, ushort>.RegImm, &Shift<RolOperation, ushort>.MemImm, flags: Row.Modifies);
        t.Add(Code.Rol_rm16_CL,               &Shift<RolOperation, ushort>.RegCl,  &Shift<RolOperation, ushort>.MemCl,  flags: Row.Modifies);
        t.Add(Code.Rol_rm32_imm8,             &Shift<RolOperation, uint>.RegImm,   &Shift<RolOperation, uint>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Rol_rm32_1,                &Shift<RolOperation, uint>.RegImm,   &Shift<RolOperation, uint>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Rol_rm32_CL,               &Shift<RolOperation, uint>.RegCl,    &Shift<RolOperation, uint>.MemCl,    flags: Row.Modifies);
        t.Add(Code.Rol_rm64_imm8,             &Shift<RolOperation, ulong>.RegImm,  &Shift<RolOperation, ulong>.MemImm,  flags: Row.Modifies);
        t.Add(Code.Rol_rm64_1,                &Shift<RolOperation, ulong>.RegImm,  &Shift<RolOperation, ulong>.MemImm,  flags: Row.Modifies);
        t.Add(Code.Rol_rm64_CL,               &Shift<RolOperation, ulong>.RegCl,   &Shift<RolOperation, ulong>.MemCl,   flags: Row.Modifies);

        // ROR
        t.Add(Code.Ror_rm8_imm8,              &Shift<RorOperation, byte>.RegImm,   &Shift<RorOperation, byte>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Ror_rm8_1,                 &Shift<RorOperation, byte>.RegImm,   &Shift<RorOperation, byte>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Ror_rm8_CL,                &Shift<RorOperation, byte>.RegCl,    &Shift<RorOperation, byte>.MemCl,    flags: Row.Modifies);
        t.Add(Code.Ror_rm16_imm8,             &Shift<RorOperation, ushort>.RegImm, &Shift<RorOperation, ushort>.MemImm, flags: Row.Modifies);
        t.Add(Code.Ror_rm16_1,                &Shift<RorOperation, ushort>.RegImm, &Shift<RorOperation, ushort>.MemImm, flags: Row.Modifies);
        t.Add(Code.Ror_rm16_CL,               &Shift<RorOperation, ushort>.RegCl,  &Shift<RorOperation, ushort>.MemCl,  flags: Row.Modifies);
        t.Add(Code.Ror_rm32_imm8,             &Shift<RorOperation, uint>.RegImm,   &Shift<RorOperation, uint>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Ror_rm32_1,                &Shift<RorOperation, uint>.RegImm,   &Shift<RorOperation, uint>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Ror_rm32_CL,               &Shift<RorOperation, uint>.RegCl,    &Shift<RorOperation, uint>.MemCl,    flags: Row.Modifies);
        t.Add(Code.Ror_rm64_imm8,             &Shift<RorOperation, ulong>.RegImm,  &Shift<RorOperation, ulong>.MemImm,  flags: Row.Modifies);
        t.Add(Code.Ror_rm64_1,                &Shift<RorOperation, ulong>.RegImm,  &Shift<RorOperation, ulong>.MemImm,  flags: Row.Modifies);
        t.Add(Code.Ror_rm64_CL,               &Shift<RorOperation, ulong>.RegCl,   &Shift<RorOperation, ulong>.MemCl,   flags: Row.Modifies);

        // RCL
        t.Add(Code.Rcl_rm8_imm8,              &Shift<RclOperation, byte>.RegImm,   &Shift<RclOperation, byte>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Rcl_rm8_1,                 &Shift<RclOperation, byte>.RegImm,   &Shift<RclOperation, byte>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Rcl_rm8_CL,                &Shift<RclOperation, byte>.RegCl,    &Shift<RclOperation, byte>.MemCl,    flags: Row.Modifies);
        t.Add(Code.Rcl_rm16_imm8,             &Shift<RclOperation, ushort>.RegImm, &Shift<RclOperation, ushort>.MemImm, flags: Row.Modifies);
        t.Add(Code.Rcl_rm16_1,                &Shift<RclOperation, ushort>.RegImm, &Shift<RclOperation, ushort>.MemImm, flags: Row.Modifies);
        t.Add(Code.Rcl_rm16_CL,               &Shift<RclOperation, ushort>.RegCl,  &Shift<RclOperation, ushort>.MemCl,  flags: Row.Modifies);
        t.Add(Code.Rcl_rm32_imm8,             &Shift<RclOperation, uint>.RegImm,   &Shift<RclOperation, uint>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Rcl_rm32_1,                &Shift<RclOperation, uint>.RegImm,   &Shift<RclOperation, uint>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Rcl_rm32_CL,               &Shift<RclOperation, uint>.RegCl,    &Shift<RclOperation, uint>.MemCl,    flags: Row.Modifies);
        t.Add(Code.Rcl_rm64_imm8,             &Shift<RclOperation, ulong>.RegImm,  &Shift<RclOperation, ulong>.MemImm,  flags: Row.Modifies);
        t.Add(Code.Rcl_rm64_1,                &Shift<RclOperation, ulong>.RegImm,  &Shift<RclOperation, ulong>.MemImm,  flags: Row.Modifies);
        t.Add(Code.Rcl_rm64_CL,               &Shift<RclOperation, ulong>.RegCl,   &Shift<RclOperation, ulong>.MemCl,   flags: Row.Modifies);

        // RCR
        t.Add(Code.Rcr_rm8_imm8,              &Shift<RcrOperation, byte>.RegImm,   &Shift<RcrOperation, byte>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Rcr_rm8_1,                 &Shift<RcrOperation, byte>.RegImm,   &Shift<RcrOperation, byte>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Rcr_rm8_CL,                &Shift<RcrOperation, byte>.RegCl,    &Shift<RcrOperation, byte>.MemCl,    flags: Row.Modifies);
        t.Add(Code.Rcr_rm16_imm8,             &Shift<RcrOperation, ushort>.RegImm, &Shift<RcrOperation, ushort>.MemImm, flags: Row.Modifies);
        t.Add(Code.Rcr_rm16_1,                &Shift<RcrOperation, ushort>.RegImm, &Shift<RcrOperation, ushort>.MemImm, flags: Row.Modifies);
        t.Add(Code.Rcr_rm16_CL,               &Shift<RcrOperation, ushort>.RegCl,  &Shift<RcrOperation, ushort>.MemCl,  flags: Row.Modifies);
        t.Add(Code.Rcr_rm32_imm8,             &Shift<RcrOperation, uint>.RegImm,   &Shift<RcrOperation, uint>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Rcr_rm32_1,                &Shift<RcrOperation, uint>.RegImm,   &Shift<RcrOperation, uint>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Rcr_rm32_CL,               &Shift<RcrOperation, uint>.RegCl,    &Shift<RcrOperation, uint>.MemCl,    flags: Row.Modifies);
        t.Add(Code.Rcr_rm64_imm8,             &Shift<RcrOperation, ulong>.RegImm,  &Shift<RcrOperation, ulong>.MemImm,  flags: Row.Modifies);
        t.Add(Code.Rcr_rm64_1,                &Shift<RcrOperation, ulong>.RegImm,  &Shift<RcrOperation, ulong>.MemImm,  flags: Row.Modifies);
        t.Add(Code.Rcr_rm64_CL,               &Shift<RcrOperation, ulong>.RegCl,   &Shift<RcrOperation, ulong>.MemCl,   flags: Row.Modifies);

        // SHL
        t.Add(Code.Shl_rm8_imm8,              &Shift<ShlOperation, byte>.RegImm,   &Shift<ShlOperation, byte>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Shl_rm8_1,                 &Shift<ShlOperation, byte>.RegImm,   &Shift<ShlOperation, byte>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Shl_rm8_CL,                &Shift<ShlOperation, byte>.RegCl,    &Shift<ShlOperation, byte>.MemCl,    flags: Row.Modifies);
        t.Add(Code.Shl_rm16_imm8,             &Shift<ShlOperation, ushort>.RegImm, &Shift<ShlOperation, ushort>.MemImm, flags: Row.Modifies);
        t.Add(Code.Shl_rm16_1,                &Shift<ShlOperation, ushort>.RegImm, &Shift<ShlOperation, ushort>.MemImm, flags: Row.Modifies);
        t.Add(Code.Shl_rm16_CL,               &Shift<ShlOperation, ushort>.RegCl,  &Shift<ShlOperation, ushort>.MemCl,  flags: Row.Modifies);
        t.Add(Code.Shl_rm32_imm8,             &Shift<ShlOperation, uint>.RegImm,   &Shift<ShlOperation, uint>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Shl_rm32_1,                &Shift<ShlOperation, uint>.RegImm,   &Shift<ShlOperation, uint>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Shl_rm32_CL,               &Shift<ShlOperation, uint>.RegCl,    &Shift<ShlOperation, uint>.MemCl,    flags: Row.Modifies);
        t.Add(Code.Shl_rm64_imm8,             &Shift<ShlOperation, ulong>.RegImm,  &Shift<ShlOperation, ulong>.MemImm,  flags: Row.Modifies);
        t.Add(Code.Shl_rm64_1,                &Shift<ShlOperation, ulong>.RegImm,  &Shift<ShlOperation, ulong>.MemImm,  flags: Row.Modifies);
        t.Add(Code.Shl_rm64_CL,               &Shift<ShlOperation, ulong>.RegCl,   &Shift<ShlOperation, ulong>.MemCl,   flags: Row.Modifies);

        // SHR
        t.Add(Code.Shr_rm8_imm8,              &Shift<ShrOperation, byte>.RegImm,   &Shift<ShrOperation, byte>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Shr_rm8_1,                 &Shift<ShrOperation, byte>.RegImm,   &Shift<ShrOperation, byte>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Shr_rm8_CL,                &Shift<ShrOperation, byte>.RegCl,    &Shift<ShrOperation, byte>.MemCl,    flags: Row.Modifies);
        t.Add(Code.Shr_rm16_imm8,             &Shift<ShrOperation, ushort>.RegImm, &Shift<ShrOperation, ushort>.MemImm, flags: Row.Modifies);
        t.Add(Code.Shr_rm16_1,                &Shift<ShrOperation, ushort>.RegImm, &Shift<ShrOperation, ushort>.MemImm, flags: Row.Modifies);
        t.Add(Code.Shr_rm16_CL,               &Shift<ShrOperation, ushort>.RegCl,  &Shift<ShrOperation, ushort>.MemCl,  flags: Row.Modifies);
        t.Add(Code.Shr_rm32_imm8,             &Shift<ShrOperation, uint>.RegImm,   &Shift<ShrOperation, uint>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Shr_rm32_1,                &Shift<ShrOperation, uint>.RegImm,   &Shift<ShrOperation, uint>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Shr_rm32_CL,               &Shift<ShrOperation, uint>.RegCl,    &Shift<ShrOperation, uint>.MemCl,    flags: Row.Modifies);
        t.Add(Code.Shr_rm64_imm8,             &Shift<ShrOperation, ulong>.RegImm,  &Shift<ShrOperation, ulong>.MemImm,  flags: Row.Modifies);
        t.Add(Code.Shr_rm64_1,                &Shift<ShrOperation, ulong>.RegImm,  &Shift<ShrOperation, ulong>.MemImm,  flags: Row.Modifies);
        t.Add(Code.Shr_rm64_CL,               &Shift<ShrOperation, ulong>.RegCl,   &Shift<ShrOperation, ulong>.MemCl,   flags: Row.Modifies);

        // SAL
        t.Add(Code.Sal_rm8_imm8,              &Shift<ShlOperation, byte>.RegImm,   &Shift<ShlOperation, byte>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Sal_rm8_1,                 &Shift<ShlOperation, byte>.RegImm,   &Shift<ShlOperation, byte>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Sal_rm8_CL,                &Shift<ShlOperation, byte>.RegCl,    &Shift<ShlOperation, byte>.MemCl,    flags: Row.Modifies);
        t.Add(Code.Sal_rm16_imm8,             &Shift<ShlOperation, ushort>.RegImm, &Shift<ShlOperation, ushort>.MemImm, flags: Row.Modifies);
        t.Add(Code.Sal_rm16_1,                &Shift<ShlOperation, ushort>.RegImm, &Shift<ShlOperation, ushort>.MemImm, flags: Row.Modifies);
        t.Add(Code.Sal_rm16_CL,               &Shift<ShlOperation, ushort>.RegCl,  &Shift<ShlOperation, ushort>.MemCl,  flags: Row.Modifies);
        t.Add(Code.Sal_rm32_imm8,             &Shift<ShlOperation, uint>.RegImm,   &Shift<ShlOperation, uint>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Sal_rm32_1,                &Shift<ShlOperation, uint>.RegImm,   &Shift<ShlOperation, uint>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Sal_rm32_CL,               &Shift<ShlOperation, uint>.RegCl,    &Shift<ShlOperation, uint>.MemCl,    flags: Row.Modifies);
        t.Add(Code.Sal_rm64_imm8,             &Shift<ShlOperation, ulong>.RegImm,  &Shift<ShlOperation, ulong>.MemImm,  flags: Row.Modifies);
        t.Add(Code.Sal_rm64_1,                &Shift<ShlOperation, ulong>.RegImm,  &Shift<ShlOperation, ulong>.MemImm,  flags: Row.Modifies);
        t.Add(Code.Sal_rm64_CL,               &Shift<ShlOperation, ulong>.RegCl,   &Shift<ShlOperation, ulong>.MemCl,   flags: Row.Modifies);

        // SAR
        t.Add(Code.Sar_rm8_imm8,              &Shift<SarOperation, byte>.RegImm,   &Shift<SarOperation, byte>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Sar_rm8_1,                 &Shift<SarOperation, byte>.RegImm,   &Shift<SarOperation, byte>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Sar_rm8_CL,                &Shift<SarOperation, byte>.RegCl,    &Shift<SarOperation, byte>.MemCl,    flags: Row.Modifies);
        t.Add(Code.Sar_rm16_imm8,             &Shift<SarOperation, ushort>.RegImm, &Shift<SarOperation, ushort>.MemImm, flags: Row.Modifies);
        t.Add(Code.Sar_rm16_1,                &Shift<SarOperation, ushort>.RegImm, &Shift<SarOperation, ushort>.MemImm, flags: Row.Modifies);
        t.Add(Code.Sar_rm16_CL,               &Shift<SarOperation, ushort>.RegCl,  &Shift<SarOperation, ushort>.MemCl,  flags: Row.Modifies);
        t.Add(Code.Sar_rm32_imm8,             &Shift<SarOperation, uint>.RegImm,   &Shift<SarOperation, uint>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Sar_rm32_1,                &Shift<SarOperation, uint>.RegImm,   &Shift<SarOperation, uint>.MemImm,   flags: Row.Modifies);
        t.Add(Code.Sar_rm32_CL,               &Shift<SarOperation, uint>.RegCl,    &Shift<SarOperation, uint>.MemCl,    flags: Row.Modifies);
        t.Add(Code.Sar_rm64_imm8,             &Shift<SarOperation, ulong>.RegImm,  &Shift<SarOperation, ulong>.MemImm,  flags: Row.Modifies);
        t.Add(Code.Sar_rm64_1,                &Shift<SarOperation, ulong>.RegImm,  &Shift<SarOperation, ulong>.MemImm,  flags: Row.Modifies);
        t.Add(Code.Sar_rm64_CL,               &Shift<SarOperation, ulong>.RegCl,   &Shift<SarOperation, ulong>.MemCl,   flags: Row.Modifies);

        // SHLD, SHRD
        t.Add(Code.Shld_rm16_r16_imm8,        &DoubleShift<ushort>.LeftRegImm,  &DoubleShift<ushort>.LeftMemImm,  flags: Row.Modifies);
        t.Add(Code.Shld_rm16_r16_CL,          &DoubleShift<ushort>.LeftRegCl,   &DoubleShift<ushort>.LeftMemCl,   flags: Row.Modifies);
        t.Add(Code.Shld_rm32_r32_imm8,        &DoubleShift<uint>.LeftRegImm,    &DoubleShift<uint>.LeftMemImm,    flags: Row.Modifies);
        t.Add(Code.Shld_rm32_r32_CL,          &DoubleShift<uint>.LeftRegCl,     &DoubleShift<uint>.LeftMemCl,     flags: Row.Modifies);
        t.Add(Code.Shld_rm64_r64_imm8,        &DoubleShift<ulong>.LeftRegImm,   &DoubleShift<ulong>.LeftMemImm,   flags: Row.Modifies);
        t.Add(Code.Shld_rm64_r64_CL,          &DoubleShift<ulong>.LeftRegCl,    &DoubleShift<ulong>.LeftMemCl,    flags: Row.Modifies);
        t.Add(Code.Shrd_rm16_r16_imm8,        &DoubleShift<ushort>.RightRegImm, &DoubleShift<ushort>.RightMemImm, flags: Row.Modifies);
        t.Add(Code.Shrd_rm16_r16_CL,          &DoubleShift<ushort>.RightRegCl,  &DoubleShift<ushort>.RightMemCl,  flags: Row.Modifies);
        t.Add(Code.Shrd_rm32_r32_imm8,        &DoubleShift<uint>.RightRegImm,   &DoubleShift<uint>.RightMemImm,   flags: Row.Modifies);
        t.Add(Code.Shrd_rm32_r32_CL,          &DoubleShift<uint>.RightRegCl,    &DoubleShift<uint>.RightMemCl,    flags: Row.Modifies);
        t.Add(Code.Shrd_rm64_r64_imm8,        &DoubleShift<ulong>.RightRegImm,  &DoubleShift<ulong>.RightMemImm,  flags: Row.Modifies);
        t.Add(Code.Shrd_rm64_r64_CL,          &DoubleShift<ulong>.RightRegCl,   &DoubleShift<ulong>.RightMemCl,   flags: Row.Modifies);

        // BT, BTS, BTR, BTC
        t.Add(Code.Bt_rm16_r16,               &Bit<BitTest, ushort>.RegReg,       &Bit<BitTest, ushort>.MemReg,                                              flags: Row.OwnSegmentation);
        t.Add(Code.Bt_rm16_imm8,              &Bit<BitTest, ushort>.RegImm,       &Bit<BitTest, ushort>.MemImm);
        t.Add(Code.Bt_rm32_r32,               &Bit<BitTest, uint>.RegReg,         &Bit<BitTest, uint>.MemReg,                                                flags: Row.OwnSegmentation);
        t.Add(Code.Bt_rm32_imm8,              &Bit<BitTest, uint>.RegImm,         &Bit<BitTest, uint>.MemImm);
        t.Add(Code.Bt_rm64_r64,               &Bit<BitTest, ulong>.RegReg,        &Bit<BitTest, ulong>.MemReg,                                               flags: Row.OwnSegmentation);
        t.Add(Code.Bt_rm64_imm8,              &Bit<BitTest, ulong>.RegImm,        &Bit<BitTest, ulong>.MemImm);
        t.Add(Code.Bts_rm16_r16,              &Bit<BitSet, ushort>.RegReg,        &Bit<BitSet, ushort>.MemReg,        &Bit<BitSet, ushort>.LockedReg, flags: Row.OwnSegmentation | Row.Modifies);
        t.Add(Code.Bts_rm16_imm8,             &Bit<BitSet, ushort>.RegImm,        &Bit<BitSet, ushort>.MemImm,        &Bit<BitSet, ushort>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Bts_rm32_r32,              &Bit<BitSet, uint>.RegReg,          &Bit<BitSet, uint>.MemReg,          &Bit<BitSet, uint>.LockedReg, flags: Row.OwnSegmentation | Row.Modifies);
        t.Add(Code.Bts_rm32_imm8,             &Bit<BitSet, uint>.RegImm,          &Bit<BitSet, uint>.MemImm,          &Bit<BitSet, uint>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Bts_rm64_r64,              &Bit<BitSet, ulong>.RegReg,         &Bit<BitSet, ulong>.MemReg,         &Bit<BitSet, ulong>.LockedReg, flags: Row.OwnSegmentation | Row.Modifies);
        t.Add(Code.Bts_rm64_imm8,             &Bit<BitSet, ulong>.RegImm,         &Bit<BitSet, ulong>.MemImm,         &Bit<BitSet, ulong>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Btr_rm16_r16,              &Bit<BitReset, ushort>.RegReg,      &Bit<BitReset, ushort>.MemReg,      &Bit<BitReset, ushort>.LockedReg, flags: Row.OwnSegmentation | Row.Modifies);
        t.Add(Code.Btr_rm16_imm8,             &Bit<BitReset, ushort>.RegImm,      &Bit<BitReset, ushort>.MemImm,      &Bit<BitReset, ushort>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Btr_rm32_r32,              &Bit<BitReset, uint>.RegReg,        &Bit<BitReset, uint>.MemReg,        &Bit<BitReset, uint>.LockedReg, flags: Row.OwnSegmentation | Row.Modifies);
        t.Add(Code.Btr_rm32_imm8,             &Bit<BitReset, uint>.RegImm,        &Bit<BitReset, uint>.MemImm,        &Bit<BitReset, uint>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Btr_rm64_r64,              &Bit<BitReset, ulong>.RegReg,       &Bit<BitReset, ulong>.MemReg,       &Bit<BitReset, ulong>.LockedReg, flags: Row.OwnSegmentation | Row.Modifies);
        t.Add(Code.Btr_rm64_imm8,             &Bit<BitReset, ulong>.RegImm,       &Bit<BitReset, ulong>.MemImm,       &Bit<BitReset, ulong>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Btc_rm16_r16,              &Bit<BitComplement, ushort>.RegReg, &Bit<BitComplement, ushort>.MemReg, &Bit<BitComplement, ushort>.LockedReg, flags: Row.OwnSegmentation | Row.Modifies);
        t.Add(Code.Btc_rm16_imm8,             &Bit<BitComplement, ushort>.RegImm, &Bit<BitComplement, ushort>.MemImm, &Bit<BitComplement, ushort>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Btc_rm32_r32,              &Bit<BitComplement, uint>.RegReg,   &Bit<BitComplement, uint>.MemReg,   &Bit<BitComplement, uint>.LockedReg, flags: Row.OwnSegmentation | Row.Modifies);
        t.Add(Code.Btc_rm32_imm8,             &Bit<BitComplement, uint>.RegImm,   &Bit<BitComplement, uint>.MemImm,   &Bit<BitComplement, uint>.LockedImm, flags: Row.Modifies);
        t.Add(Code.Btc_rm64_r64,              &Bit<BitComplement, ulong>.RegReg,  &Bit<BitComplement, ulong>.MemReg,  &Bit<BitComplement, ulong>.LockedReg, flags: Row.OwnSegmentation | Row.Modifies);
        t.Add(Code.Btc_rm64_imm8,             &Bit<BitComplement, ulong>.RegImm,  &Bit<BitComplement, ulong>.MemImm,  &Bit<BitComplement, ulong>.LockedImm, flags: Row.Modifies);

        // BSF, BSR, TZCNT, LZCNT, POPCNT
        t.Add(Code.Bsf_r16_rm16,              &BitCount<ScanForward, ushort>.Reg,     &BitCount<ScanForward, ushort>.Mem);
        t.Add(Code.Bsf_r32_rm32,              &BitCount<ScanForward, uint>.Reg,       &BitCount<ScanForward, uint>.Mem);
        t.Add(Code.Bsf_r64_rm64,              &BitCount<ScanForward, ulong>.Reg,      &BitCount<ScanForward, ulong>.Mem);
        t.Add(Code.Bsr_r16_rm16,              &BitCount<ScanReverse, ushort>.Reg,     &BitCount<ScanReverse, ushort>.Mem);
        t.Add(Code.Bsr_r32_rm32,              &BitCount<ScanReverse, uint>.Reg,       &BitCount<ScanReverse, uint>.Mem);
        t.Add(Code.Bsr_r64_rm64,              &BitCount<ScanReverse, ulong>.Reg,      &BitCount<ScanReverse, ulong>.Mem);
        t.Add(Code.Tzcnt_r16_rm16,            &BitCount<TrailingZeros, ushort>.Reg,   &BitCount<TrailingZeros, ushort>.Mem);
        t.Add(Code.Tzcnt_r32_rm32,            &BitCount<TrailingZeros, uint>.Reg,     &BitCount<TrailingZeros, uint>.Mem);
        t.Add(Code.Tzcnt_r64_rm64,            &BitCount<TrailingZeros, ulong>.Reg,    &BitCount<TrailingZeros, ulong>.Mem);
        t.Add(Code.Lzcnt_r16_rm16,            &BitCount<LeadingZeros, ushort>.Reg,    &BitCount<LeadingZeros, ushort>.Mem);
        t.Add(Code.Lzcnt_r32_rm32,            &BitCount<LeadingZeros, uint>.Reg,      &BitCount<LeadingZeros, uint>.Mem);
        t.Add(Code.Lzcnt_r64_rm64,            &BitCount<LeadingZeros, ulong>.Reg,     &BitCount<LeadingZeros, ulong>.Mem);
        t.Add(Code.Popcnt_r16_rm16,           &BitCount<PopulationCount, ushort>.Reg, &BitCount<PopulationCount, ushort>.Mem);
        t.Add(Code.Popcnt_r32_rm32,           &BitCount<PopulationCount, uint>.Reg,   &BitCount<PopulationCount, uint>.Mem);
        t.Add(Code.Popcnt_r64_rm64,           &BitCount<PopulationCount, ulong>.Reg,  &BitCount<PopulationCount, ulong>.Mem);

        // BMI1, BMI2
        t.Add(Code.VEX_Andn_r32_r32_rm32,     &BmiHandlers<AndNot, uint>.RegRegReg,                  &BmiHandlers<AndNot, uint>.RegRegMem,                  flags: Row.Vex);
        t.Add(Code.VEX_Pdep_r32_r32_rm32,     &BmiHandlers<Deposit, uint>.RegRegReg,                 &BmiHandlers<Deposit, uint>.RegRegMem,                 flags: Row.Vex);
        t.Add(Code.VEX_Pext_r32_r32_rm32,     &BmiHandlers<Extract, uint>.RegRegReg,                 &BmiHandlers<Extract, uint>.RegRegMem,                 flags: Row.Vex);
        t.Add(Code.VEX_Bextr_r32_rm32_r32,    &BmiHandlers<ExtractField, uint>.RegRegReg,            &BmiHandlers<ExtractField, uint>.RegMemReg,            flags: Row.Vex);
        t.Add(Code.VEX_Bzhi_r32_rm32_r32,     &BmiHandlers<ZeroHigh, uint>.RegRegReg,                &BmiHandlers<ZeroHigh, uint>.RegMemReg,                flags: Row.Vex);
        t.Add(Code.VEX_Shlx_r32_rm32_r32,     &BmiHandlers<ShiftLeftNoFlags, uint>.RegRegReg,        &BmiHandlers<ShiftLeftNoFlags, uint>.RegMemReg,        flags: Row.Vex);
        t.Add(Code.VEX_Shrx_r32_rm32_r32,     &BmiHandlers<ShiftRightNoFlags, uint>.RegRegReg,       &BmiHandlers<ShiftRightNoFlags, uint>.RegMemReg,       flags: Row.Vex);
        t.Add(Code.VEX_Sarx_r32_rm32_r32,     &BmiHandlers<ShiftArithmeticNoFlags, uint>.RegRegReg,  &BmiHandlers<ShiftArithmeticNoFlags, uint>.RegMemReg,  flags: Row.Vex);
        t.Add(Code.VEX_Blsr_r32_rm32,         &BmiHandlers<ResetLowest, uint>.RegRegImm,             &BmiHandlers<ResetLowest, uint>.RegMemImm,             flags: Row.Vex);
        t.Add(Code.VEX_Blsmsk_r32_rm32,       &BmiHandlers<MaskToLowest, uint>.RegRegImm,            &BmiHandlers<MaskToLowest, uint>.RegMemImm,            flags: Row.Vex);
        t.Add(Code.VEX_Blsi_r32_rm32,         &BmiHandlers<IsolateLowest, uint>.RegRegImm,           &BmiHandlers<IsolateLowest, uint>.RegMemImm,           flags: Row.Vex);
        t.Add(Code.VEX_Rorx_r32_rm32_imm8,    &BmiHandlers<RotateRightNoFlags, uint>.RegRegImm,      &BmiHandlers<RotateRightNoFlags, uint>.RegMemImm,      flags: Row.Vex);
        t.Add(Code.VEX_Mulx_r32_r32_rm32,     &WideArithmetic<uint>.MulxReg,                         &WideArithmetic<uint>.MulxMem,                         flags: Row.Vex);
        t.Add(Code.Adcx_r32_rm32,             &WideArithmetic<uint>.AdcxReg,                         &WideArithmetic<uint>.AdcxMem);
        t.Add(Code.Adox_r32_rm32,             &WideArithmetic<uint>.AdoxReg,                         &WideArithmetic<uint>.AdoxMem);
        t.Add(Code.VEX_Andn_r64_r64_rm64,     &BmiHandlers<AndNot, ulong>.RegRegReg,                 &BmiHandlers<AndNot, ulong>.RegRegMem,                 flags: Row.Vex);
        t.Add(Code.VEX_Pdep_r64_r64_rm64,     &BmiHandlers<Deposit, ulong>.RegRegReg,                &BmiHandlers<Deposit, ulong>.RegRegMem,                flags: Row.Vex);
        t.Add(Code.VEX_Pext_r64_r64_rm64,     &BmiHandlers<Extract, ulong>.RegRegReg,                &BmiHandlers<Extract, ulong>.RegRegMem,                flags: Row.Vex);
        t.Add(Code.VEX_Bextr_r64_rm64_r64,    &BmiHandlers<ExtractField, ulong>.RegRegReg,           &BmiHandlers<ExtractField, ulong>.RegMemReg,           flags: Row.Vex);
        t.Add(Code.VEX_Bzhi_r64_rm64_r64,     &BmiHandlers<ZeroHigh, ulong>.RegRegReg,               &BmiHandlers<ZeroHigh, ulong>.RegMemReg,               flags: Row.Vex);
        t.Add(Code.VEX_Shlx_r64_rm64_r64,     &BmiHandlers<ShiftLeftNoFlags, ulong>.RegRegReg,       &BmiHandlers<ShiftLeftNoFlags, ulong>.RegMemReg,       flags: Row.Vex);
        t.Add(Code.VEX_Shrx_r64_rm64_r64,     &BmiHandlers<ShiftRightNoFlags, ulong>.RegRegReg,      &BmiHandlers<ShiftRightNoFlags, ulong>.RegMemReg,      flags: Row.Vex);
        t.Add(Code.VEX_Sarx_r64_rm64_r64,     &BmiHandlers<ShiftArithmeticNoFlags, ulong>.RegRegReg, &BmiHandlers<ShiftArithmeticNoFlags, ulong>.RegMemReg, flags: Row.Vex);
        t.Add(Code.VEX_Blsr_r64_rm64,         &BmiHandlers<ResetLowest, ulong>.RegRegImm,            &BmiHandlers<ResetLowest, ulong>.RegMemImm,            flags: Row.Vex);
        t.Add(Code.VEX_Blsmsk_r64_rm64,       &BmiHandlers<MaskToLowest, ulong>.RegRegImm,           &BmiHandlers<MaskToLowest, ulong>.RegMemImm,           flags: Row.Vex);
        t.Add(Code.VEX_Blsi_r64_rm64,         &BmiHandlers<IsolateLowest, ulong>.RegRegImm,          &BmiHandlers<IsolateLowest, ulong>.RegMemImm,          flags: Row.Vex);
        t.Add(Code.VEX_Rorx_r64_rm64_imm8,    &BmiHandlers<RotateRightNoFlags, ulong>.RegRegImm,     &BmiHandlers<RotateRightNoFlags, ulong>.RegMemImm,     flags: Row.Vex);
        t.Add(Code.VEX_Mulx_r64_r64_rm64,     &WideArithmetic<ulong>.MulxReg,                        &WideArithmetic<ulong>.MulxMem,                        flags: Row.Vex);
        t.Add(Code.Adcx_r64_rm64,             &WideArithmetic<ulong>.AdcxReg,                        &WideArithmetic<ulong>.AdcxMem);
        t.Add(Code.Adox_r64_rm64,             &WideArithmetic<ulong>.AdoxReg,                        &WideArithmetic<ulong>.AdoxMem);

        // CRC32
        t.Add(Code.Crc32_r32_rm8,             &Crc32<byte>.Reg,   &Crc32<byte>.Mem);
        t.Add(Code.Crc32_r64_rm8,             &Crc32<byte>.Reg,   &Crc32<byte>.Mem);
        t.Add(Code.Crc32_r32_rm16,            &Crc32<ushort>.Reg, &Crc32<ushort>.Mem);
        t.Add(Code.Crc32_r32_rm32,            &Crc32<uint>.Reg,   &Crc32<uint>.Mem);
        t.Add(Code.Crc32_r64_rm64,            &Crc32<ulong>.Reg,  &Crc32<ulong>.Mem);

        // MOV, MOVBE, MOVNTI, BSWAP, LEA
        t.Add(Code.Mov_rm8_r8,                &Move<byte>.RegReg,   &Move<byte>.MemReg,          flags: Row.Writes);
        t.Add(Code.Mov_r8_rm8,                &Move<byte>.RegReg,   &Move<byte>.RegMem);
        t.Add(Code.Mov_r8_imm8,               &Move<byte>.RegImm);
        t.Add(Code.Mov_rm8_imm8,              &Move<byte>.RegImm,   &Move<byte>.MemImm,          flags: Row.Writes);
        t.Add(Code.Mov_AL_moffs8,             null,                 &Move<byte>.RegMem);
        t.Add(Code.Mov_moffs8_AL,             null,                 &Move<byte>.MemReg,          flags: Row.Writes);
        t.Add(Code.Mov_rm16_r16,              &Move<ushort>.RegReg, &Move<ushort>.MemReg,        flags: Row.Writes);
        t.Add(Code.Mov_r16_rm16,              &Move<ushort>.RegReg, &Move<ushort>.RegMem);
        t.Add(Code.Mov_r16_imm16,             &Move<ushort>.RegImm);
        t.Add(Code.Mov_rm16_imm16,            &Move<ushort>.RegImm, &Move<ushort>.MemImm,        flags: Row.Writes);
        t.Add(Code.Mov_AX_moffs16,            null,                 &Move<ushort>.RegMem);
        t.Add(Code.Mov_moffs16_AX,            null,                 &Move<ushort>.MemReg,        flags: Row.Writes);
        t.Add(Code.Lea_r16_m,                 null,                 &Move<ushort>.LoadAddress,   flags: Row.AddressOnly);
        t.Add(Code.Movbe_r16_m16,             null,                 &Move<ushort>.RegMemSwapped);
        t.Add(Code.Movbe_m16_r16,             null,                 &Move<ushort>.MemRegSwapped, flags: Row.Writes);
        t.Add(Code.Bswap_r16,                 &Move<ushort>.SwapReg);
        t.Add(Code.Mov_rm32_r32,              &Move<uint>.RegReg,   &Move<uint>.MemReg,          flags: Row.Writes);
        t.Add(Code.Mov_r32_rm32,              &Move<uint>.RegReg,   &Move<uint>.RegMem);
        t.Add(Code.Mov_r32_imm32,             &Move<uint>.RegImm);
        t.Add(Code.Mov_rm32_imm32,            &Move<uint>.RegImm,   &Move<uint>.MemImm,          flags: Row.Writes);
        t.Add(Code.Mov_EAX_moffs32,           null,                 &Move<uint>.RegMem);
        t.Add(Code.Mov_moffs32_EAX,           null,                 &Move<uint>.MemReg,          flags: Row.Writes);
        t.Add(Code.Lea_r32_m,                 null,                 &Move<uint>.LoadAddress,     flags: Row.AddressOnly);
        t.Add(Code.Movbe_r32_m32,             null,                 &Move<uint>.RegMemSwapped);
        t.Add(Code.Movbe_m32_r32,             null,                 &Move<uint>.MemRegSwapped,   flags: Row.Writes);
        t.Add(Code.Bswap_r32,                 &Move<uint>.SwapReg);
        t.Add(Code.Movnti_m32_r32,            null,                 &Move<uint>.MemReg,          flags: Row.Writes);
        t.Add(Code.Mov_rm64_r64,              &Move<ulong>.RegReg,  &Move<ulong>.MemReg,         flags: Row.Writes);
        t.Add(Code.Mov_r64_rm64,              &Move<ulong>.RegReg,  &Move<ulong>.RegMem);
        t.Add(Code.Mov_r64_imm64,             &Move<ulong>.RegImm);
        t.Add(Code.Mov_rm64_imm32,            &Move<ulong>.RegImm,  &Move<ulong>.MemImm,         flags: Row.Writes);
        t.Add(Code.Mov_RAX_moffs64,           null,                 &Move<ulong>.RegMem);
        t.Add(Code.Mov_moffs64_RAX,           null,                 &Move<ulong>.MemReg,         flags: Row.Writes);
        t.Add(Code.Lea_r64_m,                 null,                 &Move<ulong>.LoadAddress,    flags: Row.AddressOnly);
        t.Add(Code.Movbe_r64_m64,             null,                 &Move<ulong>.RegMemSwapped);
        t.Add(Code.Movbe_m64_r64,             null,                 &Move<ulong>.MemRegSwapped,  flags: Row.Writes);
        t.Add(Code.Bswap_r64,                 &Move<ulong>.SwapReg);
        t.Add(Code.Movnti_m64_r64,            null,                 &Move<ulong>.MemReg,         flags: Row.Writes);

        // MOVZX, MOVSX, MOVSXD
        t.Add(Code.Movzx_r16_rm8,             &Extend<byte, ushort>.RegReg,   &Extend<byte, ushort>.RegMem);
        t.Add(Code.Movsx_r16_rm8,             &Extend<sbyte, ushort>.RegReg,  &Extend<sbyte, ushort>.RegMem);
        t.Add(Code.Movzx_r32_rm8,             &Extend<byte, uint>.RegReg,     &Extend<byte, uint>.RegMem);
        t.Add(Code.Movsx_r32_rm8,             &Extend<sbyte, uint>.RegReg,    &Extend<sbyte, uint>.RegMem);
        t.Add(Code.Movzx_r64_rm8,             &Extend<byte, ulong>.RegReg,    &Extend<byte, ulong>.RegMem);
        t.Add(Code.Movsx_r64_rm8,             &Extend<sbyte, ulong>.RegReg,   &Extend<sbyte, ulong>.RegMem);
        t.Add(Code.Movzx_r16_rm16,            &Extend<ushort, ushort>.RegReg, &Extend<ushort, ushort>.RegMem);
        t.Add(Code.Movsx_r16_rm16,            &Extend<short, ushort>.RegReg,  &Extend<short, ushort>.RegMem);
        t.Add(Code.Movzx_r32_rm16,            &Extend<ushort, uint>.RegReg,   &Extend<ushort, uint>.RegMem);
        t.Add(Code.Movsx_r32_rm16,            &Extend<short, uint>.RegReg,    &Extend<short, uint>.RegMem);
        t.Add(Code.Movzx_r64_rm16,            &Extend<ushort, ulong>.RegReg,  &Extend<ushort, ulong>.RegMem);
        t.Add(Code.Movsx_r64_rm16,            &Extend<short, ulong>.RegReg,   &Extend<short, ulong>.RegMem);
        t.Add(Code.Movsxd_r16_rm16,           &Move<ushort>.RegReg,           &Move<ushort>.RegMem);
        t.Add(Code.Movsxd_r32_rm32,           &Move<uint>.RegReg,             &Move<uint>.RegMem);
        t.Add(Code.Movsxd_r64_rm32,           &Extend<int, ulong>.RegReg,     &Extend<int, ulong>.RegMem);

        // XCHG, XADD, CMPXCHG
        t.Add(Code.Xchg_rm8_r8,               &Exchange<byte>.XchgRegReg,      &Exchange<byte>.XchgMem,      &Exchange<byte>.XchgMem, flags: Row.Modifies);
        t.Add(Code.Xadd_rm8_r8,               &Exchange<byte>.XaddRegReg,      &Exchange<byte>.XaddMem,      &Exchange<byte>.XaddLocked, flags: Row.Modifies);
        t.Add(Code.Cmpxchg_rm8_r8,            &Exchange<byte>.CmpxchgRegReg,   &Exchange<byte>.CmpxchgMem,   &Exchange<byte>.CmpxchgLocked, flags: Row.Modifies);
        t.Add(Code.Xchg_rm16_r16,             &Exchange<ushort>.XchgRegReg,    &Exchange<ushort>.XchgMem,    &Exchange<ushort>.XchgMem, flags: Row.Modifies);
        t.Add(Code.Xchg_r16_AX,               &Exchange<ushort>.XchgRegReg);
        t.Add(Code.Xadd_rm16_r16,             &Exchange<ushort>.XaddRegReg,    &Exchange<ushort>.XaddMem,    &Exchange<ushort>.XaddLocked, flags: Row.Modifies);
        t.Add(Code.Cmpxchg_rm16_r16,          &Exchange<ushort>.CmpxchgRegReg, &Exchange<ushort>.CmpxchgMem, &Exchange<ushort>.CmpxchgLocked, flags: Row.Modifies);
        t.Add(Code.Xchg_rm32_r32,             &Exchange<uint>.XchgRegReg,      &Exchange<uint>.XchgMem,      &Exchange<uint>.XchgMem, flags: Row.Modifies);
        t.Add(Code.Xchg_r32_EAX,              &Exchange<uint>.XchgRegReg);
        t.Add(Code.Xadd_rm32_r32,             &Exchange<uint>.XaddRegReg,      &Exchange<uint>.XaddMem,      &Exchange<uint>.XaddLocked, flags: Row.Modifies);
        t.Add(Code.Cmpxchg_rm32_r32,          &Exchange<uint>.CmpxchgRegReg,   &Exchange<uint>.CmpxchgMem,   &Exchange<uint>.CmpxchgLocked, flags: Row.Modifies);
        t.Add(Code.Xchg_rm64_r64,             &Exchange<ulong>.XchgRegReg,     &Exchange<ulong>.XchgMem,     &Exchange<ulong>.XchgMem, flags: Row.Modifies);
        t.Add(Code.Xchg_r64_RAX,              &Exchange<ulong>.XchgRegReg);
        t.Add(Code.Xadd_rm64_r64,             &Exchange<ulong>.XaddRegReg,     &Exchange<ulong>.XaddMem,     &Exchange<ulong>.XaddLocked, flags: Row.Modifies);
        t.Add(Code.Cmpxchg_rm64_r64,          &Exchange<ulong>.CmpxchgRegReg,  &Exchange<ulong>.CmpxchgMem,  &Exchange<ulong>.CmpxchgLocked, flags: Row.Modifies);
        t.Add(Code.Cmpxchg8b_m64,             null,                            &WideExchange.Cmpxchg8b,      &WideExchange.Cmpxchg8b, flags: Row.Modifies);
        t.Add(Code.Cmpxchg16b_m128,           null,                            &WideExchange.Cmpxchg16b,     &WideExchange.Cmpxchg16b, flags: Row.Modifies);

        // CMOVcc, SETcc
        t.Add(Code.Cmovo_r16_rm16,            &Conditional<Overflow, ushort>.MoveReg,       &Conditional<Overflow, ushort>.MoveMem);
        t.Add(Code.Cmovo_r32_rm32,            &Conditional<Overflow, uint>.MoveReg,         &Conditional<Overflow, uint>.MoveMem);
        t.Add(Code.Cmovo_r64_rm64,            &Conditional<Overflow, ulong>.MoveReg,        &Conditional<Overflow, ulong>.MoveMem);
        t.Add(Code.Seto_rm8,                  &SetByte<Overflow>.Reg,                       &SetByte<Overflow>.Mem,                      flags: Row.Writes);
        t.Add(Code.Cmovno_r16_rm16,           &Conditional<NotOverflow, ushort>.MoveReg,    &Conditional<NotOverflow, ushort>.MoveMem);
        t.Add(Code.Cmovno_r32_rm32,           &Conditional<NotOverflow, uint>.MoveReg,      &Conditional<NotOverflow, uint>.MoveMem);
        t.Add(Code.Cmovno_r64_rm64,           &Conditional<NotOverflow, ulong>.MoveReg,     &Conditional<NotOverflow, ulong>.MoveMem);
        t.Add(Code.Setno_rm8,                 &SetByte<NotOverflow>.Reg,                    &SetByte<NotOverflow>.Mem,                   flags: Row.Writes);
        t.Add(Code.Cmovb_r16_rm16,            &Conditional<Below, ushort>.MoveReg,          &Conditional<Below, ushort>.MoveMem);
        t.Add(Code.Cmovb_r32_rm32,            &Conditional<Below, uint>.MoveReg,            &Conditional<Below, uint>.MoveMem);
        t.Add(Code.Cmovb_r64_rm64,            &Conditional<Below, ulong>.MoveReg,           &Conditional<Below, ulong>.MoveMem);
        t.Add(Code.Setb_rm8,                  &SetByte<Below>.Reg,                          &SetByte<Below>.Mem,                         flags: Row.Writes);
        t.Add(Code.Cmovae_r16_rm16,           &Conditional<AboveOrEqual, ushort>.MoveReg,   &Conditional<AboveOrEqual, ushort>.MoveMem);
        t.Add(Code.Cmovae_r32_rm32,           &Conditional<AboveOrEqual, uint>.MoveReg,     &Conditional<AboveOrEqual, uint>.MoveMem);
        t.Add(Code.Cmovae_r64_rm64,           &Conditional<AboveOrEqual, ulong>.MoveReg,    &Conditional<AboveOrEqual, ulong>.MoveMem);
        t.Add(Code.Setae_rm8,                 &SetByte<AboveOrEqual>.Reg,                   &SetByte<AboveOrEqual>.Mem,                  flags: Row.Writes);
        t.Add(Code.Cmove_r16_rm16,            &Conditional<Equal, ushort>.MoveReg,          &Conditional<Equal, ushort>.MoveMem);
        t.Add(Code.Cmove_r32_rm32,            &Conditional<Equal, uint>.MoveReg,            &Conditional<Equal, uint>.MoveMem);
        t.Add(Code.Cmove_r64_rm64,            &Conditional<Equal, ulong>.MoveReg,           &Conditional<Equal, ulong>.MoveMem);
        t.Add(Code.Sete_rm8,                  &SetByte<Equal>.Reg,                          &SetByte<Equal>.Mem,                         flags: Row.Writes);
        t.Add(Code.Cmovne_r16_rm16,           &Conditional<NotEqual, ushort>.MoveReg,       &Conditional<NotEqual, ushort>.MoveMem);
        t.Add(Code.Cmovne_r32_rm32,           &Conditional<NotEqual, uint>.MoveReg,         &Conditional<NotEqual, uint>.MoveMem);
        t.Add(Code.Cmovne_r64_rm64,           &Conditional<NotEqual, ulong>.MoveReg,        &Conditional<NotEqual, ulong>.MoveMem);
        t.Add(Code.Setne_rm8,                 &SetByte<NotEqual>.Reg,                       &SetByte<NotEqual>.Mem,                      flags: Row.Writes);
        t.Add(Code.Cmovbe_r16_rm16,           &Conditional<BelowOrEqual, ushort>.MoveReg,   &Conditional<BelowOrEqual, ushort>.MoveMem);
        t.Add(Code.Cmovbe_r32_rm32,           &Conditional<BelowOrEqual, uint>.MoveReg,     &Conditional<BelowOrEqual, uint>.MoveMem);
        t.Add(Code.Cmovbe_r64_rm64,           &Conditional<BelowOrEqual, ulong>.MoveReg,    &Conditional<BelowOrEqual, ulong>.MoveMem);
        t.Add(Code.Setbe_rm8,                 &SetByte<BelowOrEqual>.Reg,                   &SetByte<BelowOrEqual>.Mem,                  flags: Row.Writes);
        t.Add(Code.Cmova_r16_rm16,            &Conditional<Above, ushort>.MoveReg,          &Conditional<Above, ushort>.MoveMem);
        t.Add(Code.Cmova_r32_rm32,            &Conditional<Above, uint>.MoveReg,            &Conditional<Above, uint>.MoveMem);
        t.Add(Code.Cmova_r64_rm64,            &Conditional<Above, ulong>.MoveReg,           &Conditional<Above, ulong>.MoveMem);
        t.Add(Code.Seta_rm8,                  &SetByte<Above>.Reg,                          &SetByte<Above>.Mem,                         flags: Row.Writes);
        t.Add(Code.Cmovs_r16_rm16,            &Conditional<Sign, ushort>.MoveReg,           &Conditional<Sign, ushort>.MoveMem);
        t.Add(Code.Cmovs_r32_rm32,            &Conditional<Sign, uint>.MoveReg,             &Conditional<Sign, uint>.MoveMem);
        t.Add(Code.Cmovs_r64_rm64,            &Conditional<Sign, ulong>.MoveReg,            &Conditional<Sign, ulong>.MoveMem);
        t.Add(Code.Sets_rm8,                  &SetByte<Sign>.Reg,                           &SetByte<Sign>.Mem,                          flags: Row.Writes);
        t.Add(Code.Cmovns_r16_rm16,           &Conditional<NotSign, ushort>.MoveReg,        &Conditional<NotSign, ushort>.MoveMem);
        t.Add(Code.Cmovns_r32_rm32,           &Conditional<NotSign, uint>.MoveReg,          &Conditional<NotSign, uint>.MoveMem);
        t.Add(Code.Cmovns_r64_rm64,           &Conditional<NotSign, ulong>.MoveReg,         &Conditional<NotSign, ulong>.MoveMem);
        t.Add(Code.Setns_rm8,                 &SetByte<NotSign>.Reg,                        &SetByte<NotSign>.Mem,                       flags: Row.Writes);
        t.Add(Code.Cmovp_r16_rm16,            &Conditional<ParityEven, ushort>.MoveReg,     &Conditional<ParityEven, ushort>.MoveMem);
        t.Add(Code.Cmovp_r32_rm32,            &Conditional<ParityEven, uint>.MoveReg,       &Conditional<ParityEven, uint>.MoveMem);
        t.Add(Code.Cmovp_r64_rm64,            &Conditional<ParityEven, ulong>.MoveReg,      &Conditional<ParityEven, ulong>.MoveMem);
        t.Add(Code.Setp_rm8,                  &SetByte<ParityEven>.Reg,                     &SetByte<ParityEven>.Mem,                    flags: Row.Writes);
        t.Add(Code.Cmovnp_r16_rm16,           &Conditional<ParityOdd, ushort>.MoveReg,      &Conditional<ParityOdd, ushort>.MoveMem);
        t.Add(Code.Cmovnp_r32_rm32,           &Conditional<ParityOdd, uint>.MoveReg,        &Conditional<ParityOdd, uint>.MoveMem);
        t.Add(Code.Cmovnp_r64_rm64,           &Conditional<ParityOdd, ulong>.MoveReg,       &Conditional<ParityOdd, ulong>.MoveMem);
        t.Add(Code.Setnp_rm8,                 &SetByte<ParityOdd>.Reg,                      &SetByte<ParityOdd>.Mem,                     flags: Row.Writes);
        t.Add(Code.Cmovl_r16_rm16,            &Conditional<Less, ushort>.MoveReg,           &Conditional<Less, ushort>.MoveMem);
        t.Add(Code.Cmovl_r32_rm32,            &Conditional<Less, uint>.MoveReg,             &Conditional<Less, uint>.MoveMem);
        t.Add(Code.Cmovl_r64_rm64,            &Conditional<Less, ulong>.MoveReg,            &Conditional<Less, ulong>.MoveMem);
        t.Add(Code.Setl_rm8,                  &SetByte<Less>.Reg,                           &SetByte<Less>.Mem,                          flags: Row.Writes);
        t.Add(Code.Cmovge_r16_rm16,           &Conditional<GreaterOrEqual, ushort>.MoveReg, &Conditional<GreaterOrEqual, ushort>.MoveMem);
        t.Add(Code.Cmovge_r32_rm32,           &Conditional<GreaterOrEqual, uint>.MoveReg,   &Conditional<GreaterOrEqual, uint>.MoveMem);
        t.Add(Code.Cmovge_r64_rm64,           &Conditional<GreaterOrEqual, ulong>.MoveReg,  &Conditional<GreaterOrEqual, ulong>.MoveMem);
        t.Add(Code.Setge_rm8,                 &SetByte<GreaterOrEqual>.Reg,                 &SetByte<GreaterOrEqual>.Mem,                flags: Row.Writes);
        t.Add(Code.Cmovle_r16_rm16,           &Conditional<LessOrEqual, ushort>.MoveReg,    &Conditional<LessOrEqual, ushort>.MoveMem);
        t.Add(Code.Cmovle_r32_rm32,           &Conditional<LessOrEqual, uint>.MoveReg,      &Conditional<LessOrEqual, uint>.MoveMem);
        t.Add(Code.Cmovle_r64_rm64,           &Conditional<LessOrEqual, ulong>.MoveReg,     &Conditional<LessOrEqual, ulong>.MoveMem);
        t.Add(Code.Setle_rm8,                 &SetByte<LessOrEqual>.Reg,                    &SetByte<LessOrEqual>.Mem,                   flags: Row.Writes);
        t.Add(Code.Cmovg_r16_rm16,            &Conditional<Greater, ushort>.MoveReg,        &Conditional<Greater, ushort>.MoveMem);
        t.Add(Code.Cmovg_r32_rm32,            &Conditional<Greater, uint>.MoveReg,          &Conditional<Greater, uint>.MoveMem);
        t.Add(Code.Cmovg_r64_rm64,            &Conditional<Greater, ulong>.MoveReg,         &Conditional<Greater, ulong>.MoveMem);
        t.Add(Code.Setg_rm8,                  &SetByte<Greater>.Reg,                        &SetByte<Greater>.Mem,                       flags: Row.Writes);

        // Accumulator and flags
        t.Add(Code.Cbw,                       &AccumulatorMoves.Cbw);
        t.Add(Code.Cwde,                      &AccumulatorMoves.Cwde);
        t.Add(Code.Cdqe,                      &AccumulatorMoves.Cdqe);
        t.Add(Code.Cwd,                       &AccumulatorMoves.Cwd);
        t.Add(Code.Cdq,                       &AccumulatorMoves.Cdq);
        t.Add(Code.Cqo,                       &AccumulatorMoves.Cqo);
        t.Add(Code.Lahf,                      &AccumulatorMoves.Lahf);
        t.Add(Code.Sahf,                      &AccumulatorMoves.Sahf);
        t.Add(Code.Salc,                      &AccumulatorMoves.Salc);
        t.Add(Code.Xlat_m8,                   null,                  &AccumulatorMoves.Xlat, flags: Row.OwnSegmentation);
        t.Add(Code.Clc,                       &Miscellaneous.Clc);
        t.Add(Code.Stc,                       &Miscellaneous.Stc);
        t.Add(Code.Cmc,                       &Miscellaneous.Cmc);
        t.Add(Code.Cld,                       &Miscellaneous.Cld);
        t.Add(Code.Std,                       &Miscellaneous.Std);

        // Decimal arithmetic
        t.Add(Code.Aaa,                       &DecimalAdjust.Aaa);
        t.Add(Code.Aas,                       &DecimalAdjust.Aas);
        t.Add(Code.Aam_imm8,                  &DecimalAdjust.Aam);
        t.Add(Code.Aad_imm8,                  &DecimalAdjust.Aad);
        t.Add(Code.Daa,                       &DecimalAdjust.Daa);
        t.Add(Code.Das,                       &DecimalAdjust.Das);

        // BOUND, undefined instructions, RDRAND, RDSEED
        t.Add(Code.Bound_r16_m1616,           null,                         &Miscellaneous.Bound<ushort>, flags: Row.OwnSegmentation);
        t.Add(Code.Bound_r32_m3232,           null,                         &Miscellaneous.Bound<uint>,   flags: Row.OwnSegmentation);
        t.Add(Code.Ud2,                       &Miscellaneous.Undefined);
        t.Add(Code.Ud0,                       &Miscellaneous.Undefined);
        t.Add(Code.Ud0_r16_rm16,              &Miscellaneous.Undefined,     &Miscellaneous.Undefined,     flags: Row.AddressOnly);
        t.Add(Code.Ud0_r32_rm32,              &Miscellaneous.Undefined,     &Miscellaneous.Undefined,     flags: Row.AddressOnly);
        t.Add(Code.Ud0_r64_rm64,              &Miscellaneous.Undefined,     &Miscellaneous.Undefined,     flags: Row.AddressOnly);
        t.Add(Code.Ud1_r16_rm16,              &Miscellaneous.Undefined,     &Miscellaneous.Undefined,     flags: Row.AddressOnly);
        t.Add(Code.Ud1_r32_rm32,              &Miscellaneous.Undefined,     &Miscellaneous.Undefined,     flags: Row.AddressOnly);
        t.Add(Code.Ud1_r64_rm64,              &Miscellaneous.Undefined,     &Miscellaneous.Undefined,     flags: Row.AddressOnly);
        t.Add(Code.Rdrand_r16,                &Miscellaneous.Random<ushort>);
        t.Add(Code.Rdrand_r32,                &Miscellaneous.Random<uint>);
        t.Add(Code.Rdrand_r64,                &Miscellaneous.Random<ulong>);
        t.Add(Code.Rdseed_r16,                &Miscellaneous.Random<ushort>);
        t.Add(Code.Rdseed_r32,                &Miscellaneous.Random<uint>);
        t.Add(Code.Rdseed_r64,                &Miscellaneous.Random<ulong>);

        // No-operations, hints, fences, cache lines
        t.Add(Code.Nopw,                      &Miscellaneous.Nop);
        t.Add(Code.Nopd,                      &Miscellaneous.Nop);
        t.Add(Code.Nopq,                      &Miscellaneous.Nop);
        t.Add(Code.Endbr32,                   &Miscellaneous.Nop);
        t.Add(Code.Endbr64,                   &Miscellaneous.Nop);
        t.Add(Code.Pause,                     &Miscellaneous.Pause, null,                   intercept: InterceptedInstructions.Pause);
        t.Add(Code.Nop_rm16,                  &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Nop_rm32,                  &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Nop_rm64,                  &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm16_r16_0F0D, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm32_r32_0F0D, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm64_r64_0F0D, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm16_r16_0F18, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm32_r32_0F18, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm64_r64_0F18, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm16_r16_0F19, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm32_r32_0F19, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm64_r64_0F19, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm16_r16_0F1A, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm32_r32_0F1A, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm64_r64_0F1A, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm16_r16_0F1B, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm32_r32_0F1B, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm64_r64_0F1B, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm16_r16_0F1C, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm32_r32_0F1C, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm64_r64_0F1C, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm16_r16_0F1D, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm32_r32_0F1D, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm64_r64_0F1D, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm16_r16_0F1E, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm32_r32_0F1E, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm64_r64_0F1E, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm16_r16_0F1F, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm32_r32_0F1F, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Reservednop_rm64_r64_0F1F, &Miscellaneous.Nop,  &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Prefetch_m8,               null,                &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Prefetchw_m8,              null,                &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Prefetchwt1_m8,            null,                &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Prefetchnta_m8,            null,                &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Prefetcht0_m8,             null,                &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Prefetcht1_m8,             null,                &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Prefetcht2_m8,             null,                &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Prefetchreserved3_m8,      null,                &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Prefetchreserved4_m8,      null,                &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Prefetchreserved5_m8,      null,                &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Prefetchreserved6_m8,      null,                &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Prefetchreserved7_m8,      null,                &Miscellaneous.Nop,      flags: Row.AddressOnly);
        t.Add(Code.Lfence,                    &Miscellaneous.Fence);
        t.Add(Code.Lfence_E9,                 &Miscellaneous.Fence);
        t.Add(Code.Lfence_EA,                 &Miscellaneous.Fence);
        t.Add(Code.Lfence_EB,                 &Miscellaneous.Fence);
        t.Add(Code.Lfence_EC,                 &Miscellaneous.Fence);
        t.Add(Code.Lfence_ED,                 &Miscellaneous.Fence);
        t.Add(Code.Lfence_EE,                 &Miscellaneous.Fence);
        t.Add(Code.Lfence_EF,                 &Miscellaneous.Fence);
        t.Add(Code.Mfence,                    &Miscellaneous.Fence);
        t.Add(Code.Mfence_F1,                 &Miscellaneous.Fence);
        t.Add(Code.Mfence_F2,                 &Miscellaneous.Fence);
        t.Add(Code.Mfence_F3,                 &Miscellaneous.Fence);
        t.Add(Code.Mfence_F4,                 &Miscellaneous.Fence);
        t.Add(Code.Mfence_F5,                 &Miscellaneous.Fence);
        t.Add(Code.Mfence_F6,                 &Miscellaneous.Fence);
        t.Add(Code.Mfence_F7,                 &Miscellaneous.Fence);
        t.Add(Code.Sfence,                    &Miscellaneous.Fence);
        t.Add(Code.Sfence_F9,                 &Miscellaneous.Fence);
        t.Add(Code.Sfence_FA,                 &Miscellaneous.Fence);
        t.Add(Code.Sfence_FB,                 &Miscellaneous.Fence);
        t.Add(Code.Sfence_FC,                 &Miscellaneous.Fence);
        t.Add(Code.Sfence_FD,                 &Miscellaneous.Fence);
        t.Add(Code.Sfence_FE,                 &Miscellaneous.Fence);
        t.Add(Code.Sfence_FF,                 &Miscellaneous.Fence);
        t.Add(Code.Clflush_m8,                null,                &Miscellaneous.FlushLine);
        t.Add(Code.Clflushopt_m8,             null,                &Miscellaneous.FlushLine);
        t.Add(Code.Clwb_m8,                   null,                &Miscellaneous.FlushLine);
#pragma warning restore IDE0055
    }
}
