using Bunraku.Processor.X86;

namespace Bunraku.Processor.Tests;

/// <summary>
/// Numbers of address spaces. Intel SDM vol. 3C, "Caching Translation Information": what is cached for one VPID, EPTP and PCID must never serve another.
/// </summary>
public sealed class AddressSpacesTests
{
    private static readonly AddressSpaceOwner s_self = new(0, 0), s_first = new(1, 0x1000), s_second = new(2, 0x2000);

    [Fact]
    public void Each_owner_PCID_and_set_of_inputs_has_a_number_of_its_own_and_finds_it_again()
    {
        var spaces = new AddressSpaces();
        var numbers = new HashSet<ushort>();
        var kept = new Dictionary<(AddressSpaceOwner, ulong, uint), ushort>();
        for (int round = 0; round < 2; round++)
        {
            foreach (AddressSpaceOwner owner in (AddressSpaceOwner[])[s_self, s_first, s_second, new(1, 0x2000)])
            {
                foreach (ulong cr0 in (ulong[])[1, 2])
                {
                    spaces.Enter(owner, default(RightsInputs) with { Cr0 = cr0 });
                    for (uint pcid = 0; pcid < 5; pcid++)
                    {
                        ushort number = spaces.Select(pcid);
                        Assert.True(spaces.IsLive(number));
                        if (round == 0) Assert.True(numbers.Add(number));
                        if (round == 0) kept.Add((owner, cr0, pcid), number);
                        else Assert.Equal(kept[(owner, cr0, pcid)], number);
                    }
                }
            }
        }
    }

    [Fact]
    public void What_is_forgotten_is_not_live_and_the_rest_is()
    {
        var spaces = new AddressSpaces();
        ushort Of(AddressSpaceOwner owner, uint pcid)
        {
            spaces.Enter(owner, default);
            return spaces.Select(pcid);
        }
        ushort self = Of(s_self, 1), a1 = Of(s_first, 1), a2 = Of(s_first, 2), other = Of(new(1, 0x2000), 1), b = Of(s_second, 1);
        spaces.ForgetPcid(1, 1);
        Assert.Equal((true, false, true, false, true), (spaces.IsLive(self), spaces.IsLive(a1), spaces.IsLive(a2), spaces.IsLive(other), spaces.IsLive(b)));
        spaces.ForgetSecondStage(0x1000);
        Assert.Equal((true, false, true), (spaces.IsLive(self), spaces.IsLive(a2), spaces.IsLive(b)));
        spaces.ForgetTag(2);
        Assert.Equal((true, false), (spaces.IsLive(self), spaces.IsLive(b)));
        spaces.ForgetAll();
        Assert.False(spaces.IsLive(self));
    }

    [Fact]
    public void INVLPG_in_a_large_page_forgets_the_spaces_of_its_tag_that_have_one_there()
    {
        const ulong large = 0x7F00_1234_5000, other = 0x1234_5000;
        var spaces = new AddressSpaces();
        ushort Of(AddressSpaceOwner owner, uint pcid, bool notes)
        {
            spaces.Enter(owner, default);
            ushort number = spaces.Select(pcid);
            if (notes) spaces.NoteLarge(number, large);
            return number;
        }
        ushort has = Of(s_first, 1, true), hasNot = Of(s_first, 2, false), stranger = Of(s_second, 1, true);
        Assert.False(spaces.ForgetLarge(1, other));
        Assert.True(spaces.ForgetLarge(1, large + 0x1000));
        Assert.Equal((false, true, true), (spaces.IsLive(has), spaces.IsLive(hasNot), spaces.IsLive(stranger)));
        // Its next number begins without any.
        Of(s_first, 1, false);
        Assert.False(spaces.ForgetLarge(1, large));
    }

    [Fact]
    public void A_guest_that_flushes_all_the_time_does_not_cost_another_its_number()
    {
        var spaces = new AddressSpaces();
        spaces.Enter(s_first, default);
        ushort kept = spaces.Select(7);
        for (int n = 0; n < 10 * AddressSpaces.Last; n++)
        {
            spaces.Enter(s_second, default);
            spaces.ForgetTag(s_second.Tag);
            ushort number = spaces.Select(0);
            if (number == 0)
            {
                spaces.Reclaim();
                Assert.True(spaces.IsLive(kept));
                number = spaces.Select(0);
            }
            Assert.NotEqual(kept, number);
            spaces.Enter(s_first, default);
            Assert.Equal(kept, spaces.Select(7));
        }
    }

    [Fact]
    public void With_more_spaces_than_numbers_those_selected_longest_ago_go()
    {
        var spaces = new AddressSpaces();
        spaces.Enter(s_first, default);
        for (uint pcid = 0; pcid < AddressSpaces.Last; pcid++) Assert.NotEqual(0, spaces.Select(pcid));
        ushort early = spaces.Select(3); // and once more
        Assert.Equal(0, spaces.Select(AddressSpaces.Last));
        ushort late = spaces.Select(AddressSpaces.Last - 1);
        spaces.Reclaim();
        Assert.Equal((true, true), (spaces.IsLive(early), spaces.IsLive(late)));
        ushort made = spaces.Select(AddressSpaces.Last);
        Assert.NotEqual(0, made);
        Assert.Equal(early, spaces.Select(3));
        // The first one went, and a number is never two spaces' at a time.
        var seen = new HashSet<ushort> { made, early, late };
        for (uint pcid = 500; pcid < 900; pcid++) Assert.True(seen.Add(spaces.Select(pcid)));
    }

    [Fact]
    public void Many_different_inputs_do_not_use_the_numbers_up()
    {
        var spaces = new AddressSpaces();
        for (uint pkru = 0; pkru < 5000; pkru++)
        {
            spaces.Enter(s_self, default(RightsInputs) with { Pkru = pkru });
            ushort number = spaces.Select(0);
            if (number == 0)
            {
                spaces.Reclaim();
                number = spaces.Select(0);
            }
            Assert.True(spaces.IsLive(number));
        }
    }
}
